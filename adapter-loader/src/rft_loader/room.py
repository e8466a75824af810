"""Bounds the disk that the copies of all adapters take, which the node's other pods use, too."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Set
from pathlib import Path

from rft_api.foreign.sizes import format_size
from rft_loader.problems import Problem

MAXIMUM_ROOM = 64 << 30
"""Bytes of the copies of all adapters: two of the largest adapter that is taken, or some 600 usual ones of 100 MB."""
_BLOCK = 512
"""Bytes of a block in `stat`, whatever the file system (POSIX)."""


class Room:
    """The bytes that the copies of adapters may take together.

    Args:
        folder: the folder of all adapters.
        maximum: the bytes.
    """

    def __init__(self, folder: Path, maximum: int = MAXIMUM_ROOM):
        self._folder = folder
        self._maximum = maximum
        self._lock = threading.Lock()
        self._reserved: dict[Path, int] = {}
        # What is taken at most: removals are not subtracted until room runs out, because looking at all copies each
        # time would cost a loader with many adapters more than the copies do.
        self._taken = maximum

    @contextlib.contextmanager
    def reserve(self, uri: str, copy: Path, size: int) -> Iterator[None]:
        """Keep room for a copy while it is written.

        Args:
            uri: the address of the adapter, for the message.
            copy: the folder to which it is written.
            size: its bytes.

        Raises:
            Problem: when there is not enough. It is not permanent, because what is no longer served is removed later.
        """
        with self._lock:
            if self._taken + size > self._maximum:
                self._taken = self._stored({copy, *self._reserved}) + sum(self._reserved.values())
            if self._taken + size > self._maximum:
                raise Problem(
                    f"{uri}: takes {format_size(size)}, and the copies of this server's adapters take "
                    f"{format_size(self._taken)} of the {format_size(self._maximum)} that they may; remove adapters, "
                    "or serve some on another base",
                    permanent=False,
                )
            self._taken += size
            self._reserved[copy] = size
        try:
            yield
        finally:
            with self._lock:
                del self._reserved[copy]

    def _stored(self, written: Set[Path]) -> int:
        """Return what the copies take on the disk, without those that are being written, in part perhaps."""
        total = 0
        for path, names, files in os.walk(self._folder):
            folder = Path(path)
            names[:] = [name for name in names if folder / name not in written]
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    total += (folder / name).lstat().st_blocks * _BLOCK
        return total
