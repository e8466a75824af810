"""Finds what local addresses of a job lead to, and what a cluster could not do with the manifests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rft_api.addresses import Address, endpoint_address, job_addresses
from rft_api.data_formats import FileFilter, file_filter
from rft_api.file_digests import files_at
from rft_api.foreign.names import check_relative_name
from rft_api.manifests import ManifestError, ManifestErrors, Manifests
from rft_api.model import Location
from rft_api.model_files import INDEX, choose_files, indexed_weights
from rft_api.rft_job import RFTJob
from rft_api.storage_error import StorageError
from rft_cli.submit.plan import LocalInput, uploads_address

_LAST = ("config.json", INDEX)
"""Files that make a folder a model: they are uploaded last, so that no half of a model looks like one."""


class _InputProblem(Exception):
    """A local address does not lead to what can be uploaded; the message says why."""


def find_inputs(manifests: Manifests, job: RFTJob) -> list[LocalInput]:
    """Find the files of the job's local addresses.

    Args:
        manifests: the manifests, which are valid by themselves.
        job: the job, with the output that it is submitted with.

    Raises:
        ManifestErrors: with every field that a cluster could not use.
    """
    name, folder = job.metadata.name, manifests.folders[job.metadata.name]
    filters = {("spec", *item.location, "uri"): file_filter(item.source) for item in job.spec.sources()}
    inputs: list[LocalInput] = []
    errors: list[ManifestError] = []
    for address in job_addresses(job):
        try:
            if not address.scheme and address.role != "output":
                path = _absolute(folder / Path(address.uri).expanduser())
                inputs.append(LocalInput(address, path, _files(address, path, filters)))
        except (_InputProblem, StorageError) as problem:
            errors.append(manifests.error("RFTJob", name, address.location, str(problem)))
        except OSError as error:
            message = f"{error.filename}: {error.strerror or error}"
            errors.append(manifests.error("RFTJob", name, address.location, message))
    errors += _output_errors(manifests, job, bool(inputs))
    errors += _endpoint_errors(manifests)
    if errors:
        raise ManifestErrors(errors, manifests)
    return inputs


def _absolute(path: Path) -> Path:
    """Return an absolute path. A link keeps its own name, whose ending says how the file is read."""
    return path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name


def _files(address: Address, path: Path, filters: dict[Location, FileFilter]) -> dict[str, Path]:
    if address.role == "model":
        return _model_files(path)
    if path.is_file():
        return {"": path}
    names = {file.relative_to(path).as_posix(): file for file in files_at(path, filters[address.location])}
    if not names:
        raise _InputProblem(f"{path} holds no file that this format reads")
    for name in names:
        try:
            check_relative_name(name)
        except ValueError as error:
            raise _InputProblem(f"{path}: {name!r} {error}; rename it") from None
    return names


def _model_files(path: Path) -> dict[str, Path]:
    others, weights = choose_files(str(path), [file.name for file in path.iterdir() if file.is_file()])
    weights = indexed_weights(str(path), path, weights)
    first = [name for name in others if name not in _LAST]
    return {name: path / name for name in (*first, *weights, *(name for name in _LAST if name in others))}


def _output_errors(manifests: Manifests, job: RFTJob, uploads: bool) -> Iterator[ManifestError]:
    output = job.spec.output.uri
    if output.startswith("pvc://") and not uploads:
        return
    try:
        uploads_address(output)
    except ValueError as error:
        hint = ", and local files are uploaded beside it" if uploads else ""
        message = f"{error}{hint}; --output gives another one for this submission"
        yield manifests.error("RFTJob", job.metadata.name, ("spec", "output", "uri"), message)


def _endpoint_errors(manifests: Manifests) -> Iterator[ManifestError]:
    for endpoint in manifests.endpoints:
        address = endpoint_address(endpoint)
        if not address.scheme:
            message = "is a path, and rft submit uploads the inputs of jobs only; use an address that pods can open"
            yield manifests.error("InferenceEndpoint", endpoint.metadata.name, address.location, message)
