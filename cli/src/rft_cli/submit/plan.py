"""Plans a submission with pure functions: which files are uploaded where, and what manifests say then."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic_core import to_jsonable_python

from rft_api.addresses import Address
from rft_api.file_digests import listed_digest
from rft_api.model import Json, Location
from rft_api.reward_function import RewardFunction

UPLOADS = "rft-uploads"
"""Name of the folder of uploads, which is beside the output: a run fetches and cleans what is below its output."""
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class LocalInput:
    """What a local address of a job leads to."""

    address: Address
    """The address, with its place in the job."""
    path: Path
    """The file or folder."""
    files: Mapping[str, Path]
    """The files to upload, in their order, by their names relative to the folder; a file by itself has the name ""."""


@dataclass(frozen=True)
class Upload:
    """A file that has to be in the store."""

    path: Path
    uri: str
    """Its address there."""
    digest: str
    """Its SHA-256 as `sha256:HEX`."""
    size: int
    """Its size in bytes."""


@dataclass(frozen=True)
class UploadPlan:
    """What has to be in the store, and the addresses that stand for local ones."""

    uploads: Sequence[Upload]
    """Each address once, in the order in which they are uploaded."""
    addresses: Mapping[Location, str]
    """The new address for each place in the job that has a local one."""


def uploads_address(output: str) -> str:
    """Return the address of the uploads of a job, beside its output.

    Args:
        output: address of the output, s3://BUCKET/KEY.

    Raises:
        ValueError: when it is no such address, or is itself in a folder of uploads.
    """
    bucket, _, key = output.removeprefix("s3://").partition("/")
    parts = [part for part in key.split("/") if part]
    if not output.startswith("s3://") or not bucket or not parts or re.search(r"\s", output):
        raise ValueError("must be s3://BUCKET/PREFIX, because the pods of a cluster write there")
    if UPLOADS in parts:
        raise ValueError(f"must not be in a folder {UPLOADS}, which holds the uploads of rft submit")
    return "/".join([f"s3://{bucket}", *parts[:-1], UPLOADS])


def plan_uploads(
    inputs: Sequence[LocalInput], digests: Mapping[Path, str], sizes: Mapping[Path, int], uploads: str
) -> UploadPlan:
    """Plan which files have to be where. The address of a file or folder has the digest of what it holds.

    Args:
        inputs: what is local.
        digests: the digest of each file.
        sizes: the size of each file in bytes.
        uploads: address of the folder of uploads.
    """
    planned: dict[str, Upload] = {}
    addresses: dict[Location, str] = {}
    for item in inputs:
        is_file = list(item.files) == [""]
        names = sorted(item.files)
        digest = digests[item.files[""]] if is_file else listed_digest({n: digests[item.files[n]] for n in names})
        address = f"{uploads}/{digest.replace(':', '-')}/{stored_name(item.path.name)}"
        addresses[item.address.location] = address
        for name, path in item.files.items():
            uri = f"{address}/{name}" if name else address
            planned.setdefault(uri, Upload(path, uri, digests[path], sizes[path]))
    return UploadPlan(list(planned.values()), addresses)


def stored_name(name: str) -> str:
    """Return the name of a file or folder in an address, which has neither spaces nor unusual characters.

    The endings stay, because they say how a file is read.
    """
    usual = _UNUSUAL.sub("_", name).strip(".") or "input"
    if len(usual) <= 100:
        return usual
    endings = "".join(PurePosixPath(usual).suffixes[-2:])[-20:]
    return usual[: 100 - len(endings)] + endings


def job_document(document: Json, addresses: Mapping[Location, str], output: str, namespace: str) -> Json:
    """Return an RFTJob as it is applied.

    Args:
        document: the manifest as the user has written it.
        addresses: the new addresses, by their places.
        output: address of the output.
        namespace: its namespace.
    """
    changed = _in_namespace(document, namespace)
    for location, uri in {**addresses, ("spec", "output", "uri"): output}.items():
        _set(changed, location, uri)
    # Stated, so that a job that was suspended is resumed.
    changed["spec"].setdefault("suspend", False)
    return changed


def reward_document(document: Json, function: RewardFunction, namespace: str) -> Json:
    """Return a RewardFunction as it is applied: the code of files stands in the manifest.

    Args:
        document: the manifest as the user has written it.
        function: the same with the code of files.
        namespace: its namespace.
    """
    changed = _in_namespace(document, namespace)
    for location, grader in function.spec.graders():
        stated = _get(changed, (*location, "python"))
        if stated is not None and "file" in (stated.get("sourceFrom") or {}):
            assert grader.python is not None  # it is the same document
            del stated["sourceFrom"]
            stated["source"] = grader.python.source
    return changed


def plain_document(document: Json, api_version: str, namespace: str) -> Json:
    """Return another object as it is applied.

    Args:
        document: the manifest as the user has written it.
        api_version: its version where it states none.
        namespace: its namespace.
    """
    return {"apiVersion": api_version, **_in_namespace(document, namespace)}


def _in_namespace(document: Json, namespace: str) -> Json:
    copy: Json = to_jsonable_python(document)
    copy["metadata"]["namespace"] = namespace
    copy.pop("status", None)
    return copy


def _get(document: Any, location: Location) -> Any:
    for part in location:
        document = document.get(part) if isinstance(document, dict) else document[part]
        if document is None:
            return None
    return document


def _set(document: Any, location: Location, value: str) -> None:
    for part in location[:-1]:
        document = document[part]
    document[location[-1]] = value
