"""Copies between folders and object stores (`s3://BUCKET/KEY`); needs the extra `storage`.

Credentials, region and endpoint come from the environment as boto3 reads it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rft_api.files import atomic_file, atomic_write
from rft_api.foreign.files import read_json
from rft_api.foreign.text import one_line
from rft_api.progress import OnBytes, Report, count_bytes, ignore_bytes, ignore_report
from rft_api.resumable_upload import Target, abort_uploads, upload_file
from rft_api.storage_error import StorageError, check_stored_name

log = logging.getLogger(__name__)

SCHEME = "s3://"
_REGION = "us-east-1"
"""Region of credentials that name none; stores other than Amazon's have one, mostly of this name."""
_LARGEST_LIST_OF_ETAGS = 256 << 20
"""Largest size in bytes of the file with ETags; without it, everything is copied again."""
MAXIMUM_OBJECTS = 250_000
"""Largest number of objects below an address, in a list of which each takes some 300 bytes of memory. Whoever may write
to a bucket can store any number of empty ones, and a server need never end its list."""
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object below an address."""

    name: str
    """Its key, relative to the address."""
    size: int
    """Size in bytes."""
    etag: str
    """Entity tag, which changes with the content; empty where the store has none."""


class ObjectStore:
    """The object store that the environment of this process names, or that `variables` name.

    Args:
        variables: AWS_ACCESS_KEY_ID and so on, in place of the environment, of which then nothing is read.
        attempts: how often a request is tried, with growing pauses: a store that is away for some seconds is no event.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, attempts: int = 6) -> None:
        config = Config(retries={"max_attempts": attempts, "mode": "standard"}, connect_timeout=10, read_timeout=60)
        # A session of its own: the default one keeps the credentials that the environment had when it was first used.
        if variables is None:
            self._client: Any = boto3.Session().client("s3", config=config)
            return
        self._client = boto3.Session(
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=variables.get("AWS_SESSION_TOKEN"),
            region_name=variables.get("AWS_REGION", _REGION),
        ).client(
            "s3",
            endpoint_url=variables.get("AWS_ENDPOINT_URL"),
            config=config.merge(Config(ignore_configured_endpoint_urls=True)),
        )

    def objects(self, uri: str) -> list[StoredObject]:
        """Return the objects below an address, by name; an object at the address itself has the name "".

        Raises:
            StorageError: when they cannot be listed, there are too many, or one has a name that leads out of the folder
                it is copied to.
        """
        bucket, prefix = _split(uri)
        objects: list[StoredObject] = []
        listed = 0
        with _explained("list", uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                entries = page.get("Contents", [])
                listed += len(entries) + 1  # an empty page may be followed by another one, too
                if listed > MAXIMUM_OBJECTS:
                    text = f"there are more than {MAXIMUM_OBJECTS:,} objects below it; name a folder that has fewer"
                    raise StorageError(f"{uri}: {text}")
                for entry in entries:
                    rest = entry["Key"][len(prefix) :]
                    # models/a must not find models/abc.
                    if not rest or not prefix or prefix.endswith("/") or rest.startswith("/"):
                        name = rest if prefix.endswith("/") or not prefix else rest.removeprefix("/")
                        objects.append(StoredObject(name, entry["Size"], entry.get("ETag", "")))
        # A key that ends with a slash is a folder's, as consoles make them.
        files = sorted((item for item in objects if not item.name.endswith("/")), key=lambda item: item.name)
        folders: set[str] = set()
        for item in files:
            if item.name:
                check_stored_name(uri, item.name)
                folders.update(map(str, PurePosixPath(item.name).parents))
        both = next((item.name for item in files if item.name in folders), None)
        if both is not None:
            raise StorageError(f"{uri}: {one_line(both, 200)!r} below it is an object and a folder, too; rename it")
        return files

    def download(
        self, uri: str, target: Path, objects: Sequence[StoredObject], on_bytes: OnBytes = ignore_bytes
    ) -> None:
        """Copy objects below an address to files of the same names below `target`; the name "" is the address itself.

        A file gets its name only when it is complete. No more of an object is read than the size that it was listed
        with: the disk was thought to be large enough for that.

        Raises:
            StorageError: when one cannot be read, its name leads out of `target`, or its size has changed.
        """
        bucket, prefix = _split(uri)
        for item in objects:
            if item.name:
                check_stored_name(uri, item.name)
            path, address = target / item.name if item.name else target, _join(uri, item.name)
            with atomic_file(path) as file, _explained("read", address):
                copy = _Bounded(file, item.size)
                try:
                    self._client.download_fileobj(bucket, _join(prefix, item.name), copy, Callback=_serial(on_bytes))
                    is_whole = file.seek(0, os.SEEK_END) == item.size
                except _Grown:
                    is_whole = False
                if not is_whole:
                    text = f"{address} changed while it was copied: it was listed with {item.size:,} bytes"
                    raise StorageError(f"{text}, and has more or fewer; try again", permanent=False)

    def fetch(
        self,
        uri: str,
        target: Path,
        is_read: Callable[[str], bool] = lambda name: True,
        report: Report = ignore_report,
    ) -> bool:
        """Make `target` hold what is stored below an address: copy new and changed objects, remove files of others.

        A file is kept if its object still has the ETag that it had when it was copied. The size is not enough: weights
        of another training, or an edited label, often have the size of what they replace. The ETags are kept in a file
        beside `target`.

        Args:
            uri: the address of an object, or of a prefix.
            target: the file or folder that stands for it.
            is_read: tells by its name, relative to the address, whether an object is copied.
            report: called with the bytes that have been copied, and with all that are to be copied.

        Returns:
            Whether there was anything.

        Raises:
            StorageError: when the store refuses, or cannot be reached.
        """
        objects = [item for item in self.objects(uri) if is_read(item.name)]
        copies = _Copies(target)
        missing = [item for item in objects if not copies.hold(item)]
        copies.remove_others(objects)
        total = sum(item.size for item in missing)
        if objects:
            log.info("fetching %s: %d files, %.0f MB", uri, len(missing), total / 1e6)
        count = count_bytes(total, report)
        for item in missing:
            self.download(uri, target, [item], count)
            copies.record(item)
        return bool(objects)

    def upload(self, path: Path, uri: str, on_bytes: OnBytes = ignore_bytes) -> None:
        """Copy a file to an address.

        Raises:
            StorageError: when it cannot be written.
        """
        bucket, key = _split(uri)
        with _explained("write", uri):
            self._client.upload_file(str(path), bucket, key, Callback=_serial(on_bytes))

    def upload_digested(self, path: Path, uri: str, digest: str, on_bytes: OnBytes = ignore_bytes) -> None:
        """Copy a file whose digest is known to an address; go on where an interrupted upload has ended.

        Args:
            path: the file.
            uri: the address.
            digest: the SHA-256 of the file as `sha256:HEX`.
            on_bytes: called with the sizes of the parts that are stored.

        Raises:
            StorageError: when it cannot be written, or the file no longer has this digest.
            OSError: when the file cannot be read.
        """
        bucket, key = _split(uri)
        with _explained("write", uri):
            upload_file(Target(self._client, bucket, key), path, digest, on_bytes)

    def put(self, uri: str, content: bytes) -> None:
        """Write an object, in the place of one that is there.

        Raises:
            StorageError: when it cannot be written.
        """
        bucket, key = _split(uri)
        with _explained("write", uri):
            self._client.put_object(Bucket=bucket, Key=key, Body=content)

    @contextmanager
    def reading(self, uri: str) -> Iterator[Callable[[int], bytes]]:
        """Open an object; yields a function that returns its next bytes, at most so many, and none at its end.

        Raises:
            StorageError: when it cannot be read, at the beginning or later.
        """
        bucket, key = _split(uri)
        with _explained("read", uri):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]

        def read(size: int) -> bytes:
            with _explained("read", uri):
                return bytes(body.read(size))

        try:
            yield read
        finally:
            body.close()

    def discard(self, uri: str) -> None:
        """Remove the object at an address, if there is one, and what interrupted uploads to it have left.

        Raises:
            StorageError: when it cannot be removed.
        """
        self.delete(uri)
        bucket, key = _split(uri)
        with _explained("remove", uri):
            abort_uploads(Target(self._client, bucket, key))

    def delete(self, uri: str) -> None:
        """Remove the object at an address, if there is one.

        Raises:
            StorageError: when it cannot be removed.
        """
        bucket, key = _split(uri)
        with _explained("remove", uri):
            self._client.delete_object(Bucket=bucket, Key=key)


class _Grown(Exception):
    """An object has more bytes than it was listed with."""


class _Bounded:
    """A file that takes as many bytes as an object was listed with; boto3 writes the parts of an object to it."""

    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._size = size

    def write(self, data: bytes) -> int:
        """Write at the current position.

        Raises:
            _Grown: when the file would be larger than the object.
        """
        if self._file.tell() + len(data) > self._size:
            raise _Grown
        return self._file.write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Return that positions can be chosen, without which boto3 would copy one part after another."""
        return True


class _Copies:
    """The copies of objects in a file or folder, and the ETags that the objects had, which are in a file beside it."""

    def __init__(self, target: Path):
        self._target = target
        self._file = target.with_name(f"{target.name}.etags.json")
        self._etags: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError):  # without the file, or with half of it, everything is copied
            self._etags = dict(read_json(self._file, _LARGEST_LIST_OF_ETAGS))

    def hold(self, item: StoredObject) -> bool:
        """Return whether there is a copy of this version of an object; unknown versions count as changed."""
        path = self._path(item.name)
        same_version = item.etag != "" and self._etags.get(item.name) == item.etag
        return same_version and path.is_file() and path.stat().st_size == item.size

    def record(self, item: StoredObject) -> None:
        """Remember the version of an object that has been copied."""
        self._etags[item.name] = item.etag
        atomic_write(self._file, json.dumps(self._etags))

    def remove_others(self, objects: Sequence[StoredObject]) -> None:
        """Remove the copies of objects that are no longer stored."""
        names = {item.name for item in objects}
        for path in [self._target] if self._target.is_file() else sorted(self._target.rglob("*")):
            name = path.relative_to(self._target).as_posix() if path != self._target else ""
            if path.is_file() and name not in names:
                path.unlink()

    def _path(self, name: str) -> Path:
        return self._target / name if name else self._target


def _serial(on_bytes: OnBytes) -> OnBytes:
    """Return the same for several threads: boto3 copies the parts of a file at once."""
    lock = threading.Lock()

    def count(more: int) -> None:
        with lock:
            on_bytes(more)

    return count


@contextmanager
def _explained(verb: str, uri: str) -> Iterator[None]:
    """Convert errors of boto3 into a StorageError that names the address."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        permanent = code in _MISSING or status in (301, 400, 401, 403, 404)
        raise StorageError(f"cannot {verb} {uri}: {error}", permanent, request_failed=True) from error
    except RecursionError:
        # botocore asks a bucket for its region when it is sent elsewhere, and again when that question is, without end.
        text = "the store sends every question elsewhere, and does not say which region the bucket is in"
        raise StorageError(f"cannot {verb} {uri}: {text}", permanent=True, request_failed=True) from None
    except (BotoCoreError, Boto3Error) as error:
        # Without credentials or region no try can succeed; everything else is the network.
        permanent = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "NoRegionError")
        raise StorageError(f"cannot {verb} {uri}: {error}", permanent, request_failed=True) from error


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if name else prefix
