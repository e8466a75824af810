"""Where the content of files is: below a folder, or below an address on S3. All methods block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from rft_api.file_digests import DIGEST_PREFIX
from rft_api.files import sync
from rft_api.foreign.files import open_file, read_file
from rft_api.storage_error import StorageError

SCHEME = "s3://"
_ATTEMPTS = 3
_REQUIRED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OPTIONAL = ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
_LONGEST_VARIABLE = 16 << 10

Read = Callable[[int], bytes]
"""Returns the next bytes, at most so many; none at the end."""


class FileStore:
    """The store of all files.

    Args:
        uri: an absolute path, or s3://BUCKET/PREFIX.
        credentials: folder with a file for each variable, such as AWS_ACCESS_KEY_ID, as a Secret is mounted; without
            it, they come from the environment as boto3 reads it.
    """

    def __init__(self, uri: str, credentials: Path | None = None):
        self._uri = uri.rstrip("/")
        self._credentials = credentials
        self._lock = Lock()
        self._variables: Mapping[str, str] | None = None
        self._objects: Any = None

    @property
    def is_folder(self) -> bool:
        """Whether content is in a folder of this machine."""
        return not self._uri.startswith(SCHEME)

    def address(self, name: str) -> str:
        """Return the address of content by its name, which has parts between slashes."""
        return f"{self._uri}/{name}"

    def put(self, path: Path, uri: str, sha256: str) -> None:
        """Store a file at an address, durably. In a folder, the file itself gets the name, and is `path` no more.

        Raises:
            StorageError: when it cannot be stored.
        """
        if not self.is_folder:
            self._store().upload_digested(path, uri, f"{DIGEST_PREFIX}{sha256}")
            return
        target = Path(uri)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(path)
            path.replace(target)
            sync(target.parent)
        except OSError as error:
            raise _unwritable(uri, error) from error

    @contextmanager
    def reading(self, uri: str) -> Iterator[Read]:
        """Open content; yields a function that reads it.

        Raises:
            StorageError: when it cannot be read; permanent if it is not there.
        """
        if not self.is_folder:
            with self._store().reading(uri) as read:
                yield read
            return
        try:
            file = open_file(Path(uri))
        except OSError as error:
            text = f"cannot read {uri}: {error.strerror}"
            raise StorageError(text, permanent=isinstance(error, FileNotFoundError)) from error
        with file:
            yield file.read

    def remove(self, uri: str) -> None:
        """Remove content, if there is any, and what an interrupted attempt to store it has left.

        Raises:
            StorageError: when it cannot be removed.
        """
        if not self.is_folder:
            self._store().discard(uri)
            return
        path = Path(uri)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(uri, error) from error
        with suppress(OSError):  # another part of the same upload is still there, or another file of the namespace
            path.parent.rmdir()

    def _store(self) -> Any:
        from rft_api.storage import ObjectStore  # slow to import, and needed only for S3

        with self._lock:
            variables = None if self._credentials is None else _read_variables(self._credentials)
            if self._objects is None or variables != self._variables:
                self._objects, self._variables = ObjectStore(variables, attempts=_ATTEMPTS), variables
            return self._objects


def _read_variables(folder: Path) -> dict[str, str]:
    """Read the credentials again, because they may be replaced while the gateway runs."""
    variables = {}
    for name in (*_REQUIRED, *_OPTIONAL):
        try:
            variables[name] = read_file(folder / name, _LONGEST_VARIABLE).decode().strip()
        except FileNotFoundError:
            if name in _REQUIRED:
                raise StorageError(f"{folder / name}: there is no such file, so there are no credentials") from None
        except (OSError, ValueError) as error:
            raise StorageError(f"{folder / name}: {error}") from error
    return variables


def _unwritable(uri: str, error: OSError) -> StorageError:
    return StorageError(f"cannot write {uri}: {os.strerror(error.errno or 0)}", permanent=False)
