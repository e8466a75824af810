"""Copies between folders and object stores (`s3://BUCKET/KEY`); needs the extra `storage`.

Credentials, region and endpoint come from the environment as boto3 reads it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rft_api.files import atomic_path, atomic_write
from rft_api.progress import OnBytes, Report, count_bytes, ignore_bytes, ignore_report
from rft_api.storage_error import StorageError, check_stored_name

log = logging.getLogger(__name__)

SCHEME = "s3://"
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}


@dataclass(frozen=True)
class StoredObject:
    """An object below an address."""

    name: str
    """Its key, relative to the address."""
    size: int
    """Size in bytes."""
    etag: str
    """Entity tag, which changes with the content; empty where the store has none."""


class ObjectStore:
    """The object store that the environment of this process names."""

    def __init__(self) -> None:
        # Several tries with growing pauses: a store that is away for some seconds is no event.
        config = Config(retries={"max_attempts": 6, "mode": "standard"}, connect_timeout=10, read_timeout=60)
        self._client: Any = boto3.client("s3", config=config)

    def objects(self, uri: str) -> list[StoredObject]:
        """The objects below an address, by name; an object at the address itself has the name "".

        Raises:
            StorageError: when they cannot be listed, or one has a name that leads out of the folder it is copied to.
        """
        bucket, prefix = _split(uri)
        objects = []
        with _explained("list", uri):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    rest = entry["Key"][len(prefix) :]
                    # models/a must not find models/abc.
                    if not rest or not prefix or prefix.endswith("/") or rest.startswith("/"):
                        name = rest if prefix.endswith("/") or not prefix else rest.removeprefix("/")
                        objects.append(StoredObject(name, entry["Size"], entry.get("ETag", "")))
        # A key that ends with a slash is a folder's, as consoles make them.
        files = sorted((item for item in objects if not item.name.endswith("/")), key=lambda item: item.name)
        for item in files:
            if item.name:
                check_stored_name(uri, item.name)
        return files

    def download(self, uri: str, target: Path, names: Sequence[str], on_bytes: OnBytes = ignore_bytes) -> None:
        """Copies objects below an address to files of the same names below `target`; the name "" is the address itself.

        A file gets its name only when it is complete.

        Raises:
            StorageError: when one cannot be read, or its name leads out of `target`.
        """
        bucket, prefix = _split(uri)
        for name in names:
            if name:
                check_stored_name(uri, name)
            path = target / name if name else target
            with atomic_path(path) as partial, _explained("read", _join(uri, name)):
                self._client.download_file(bucket, _join(prefix, name), str(partial), Callback=_serial(on_bytes))

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
            self.download(uri, target, [item.name], count)
            copies.record(item)
        return bool(objects)

    def upload(self, path: Path, uri: str, on_bytes: OnBytes = ignore_bytes) -> None:
        """Copies a file to an address.

        Raises:
            StorageError: when it cannot be written.
        """
        bucket, key = _split(uri)
        with _explained("write", uri):
            self._client.upload_file(str(path), bucket, key, Callback=_serial(on_bytes))

    def delete(self, uri: str) -> None:
        """Removes the object at an address, if there is one.

        Raises:
            StorageError: when it cannot be removed.
        """
        bucket, key = _split(uri)
        with _explained("remove", uri):
            self._client.delete_object(Bucket=bucket, Key=key)


class _Copies:
    """The copies of objects in a file or folder, and the ETags that the objects had, which are in a file beside it."""

    def __init__(self, target: Path):
        self._target = target
        self._file = target.with_name(f"{target.name}.etags.json")
        self._etags: dict[str, str] = {}
        with suppress(OSError, ValueError):  # without the file, or with half of it, everything is copied
            self._etags = dict(json.loads(self._file.read_text(encoding="utf-8")))

    def hold(self, item: StoredObject) -> bool:
        """Whether there is a copy of this version of an object; unknown versions count as changed."""
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
    """The same for several threads: boto3 copies the parts of a file at once."""
    lock = threading.Lock()

    def count(more: int) -> None:
        with lock:
            on_bytes(more)

    return count


@contextmanager
def _explained(verb: str, uri: str) -> Iterator[None]:
    """Converts errors of boto3 into a StorageError that names the address."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        permanent = code in _MISSING or status in (301, 400, 401, 403, 404)
        raise StorageError(f"cannot {verb} {uri}: {error}", permanent) from error
    except (BotoCoreError, Boto3Error) as error:
        # Without credentials or region no try can succeed; everything else is the network.
        permanent = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "NoRegionError")
        raise StorageError(f"cannot {verb} {uri}: {error}", permanent) from error


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    return bucket, key


def _join(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if name else prefix
