"""Files on their way: what comes is written to the disk, where nobody sees it; what a kill leaves there is removed.

A gateway holds a lock on each of its files. A file without one was left by a gateway that has died.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rft_api.files import open_new
from rft_api.foreign.files import open_file
from rft_gateway.errors import ApiError
from rft_gateway.files.limits import TRANSFER_BYTES
from rft_gateway.server_errors import RETRY_SECONDS
from rft_gateway.shares import Shares

_SUFFIX = ".incoming"


class StagedFile:
    """A file on its way; made by `Staging.open`. Its room is counted in the event loop, the rest is done in threads."""

    def __init__(self, path: Path, file: BinaryIO, shares: Shares, namespace: str):
        self.path = path
        self.size = 0
        """Bytes that were written."""
        self._file = file
        self._shares = shares
        self._namespace = namespace
        self._expected = self._counted = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def sha256(self) -> str:
        """Digest of what was written, in hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """The same as MD5."""
        return self._md5.hexdigest()

    def take(self, size: int) -> None:
        """Count bytes of it, before they are written.

        Raises:
            ApiError: 503 when there is no room for them.
        """
        more = max(self._expected + size, TRANSFER_BYTES) - self._counted
        if not self._shares.have_room(self._namespace, more):
            message = "The files on their way at the same time take too much room. Please try again."
            raise ApiError(503, message, code="overloaded", headers={"retry-after": RETRY_SECONDS})
        self._shares.add(self._namespace, more)
        self._counted += more
        self._expected += size

    def give_back(self) -> None:
        """Count nothing of it any more."""
        self._shares.add(self._namespace, -self._counted)
        self._counted = 0

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OSError: when the disk cannot be written.
        """
        self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.size += len(data)

    def flush(self) -> None:
        """Let others read what was written.

        Raises:
            OSError: when the disk cannot be written.
        """
        self._file.flush()

    def close(self) -> None:
        """Remove it, unless it has another name by now."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk does not take what is left to write
            self._file.close()


class Staging:
    """The folder of files on their way. Namespaces share its room.

    Args:
        folder: the folder; beside the store, if that is a folder, so that a file gets its place by a new name.
        limit: bytes of all files on their way.
    """

    def __init__(self, folder: Path, limit: int):
        self._folder = folder
        self._shares = Shares(limit)

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            OSError: when it cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), str(self._folder))

    def open(self, namespace: str) -> StagedFile:
        """Open a new file.

        Raises:
            OSError: when the disk cannot be written.
        """
        path, file = self._open_locked()
        return StagedFile(path, file, self._shares, namespace)

    def remove_abandoned(self) -> None:
        """Remove the files of gateways that have died.

        Raises:
            OSError: when the folder cannot be read.
        """
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError), open_file(path) as file:  # locked, or gone meanwhile
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _open_locked(self) -> tuple[Path, BinaryIO]:
        while True:
            path = self._folder / f"{secrets.token_hex(16)}{_SUFFIX}"
            file = open_new(path)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return path, file
            file.close()  # another gateway has taken it for an abandoned one before it was locked
