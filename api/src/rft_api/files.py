"""Files that are written atomically: under another name first, which is then changed to the final one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def partial_path(target: Path) -> Path:
    """The path at which a file or folder is written before it is renamed to `target`; it is in the same folder."""
    return target.with_name(target.name + PARTIAL_SUFFIX)


@contextmanager
def atomic_path(target: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write a file to. The file replaces `target` when the block ends; after an error `target` is unchanged.

    Args:
        target: the file; missing folders above it are made.
        durable: whether the file is on the disk before it has its name, so that it survives a crash of the machine.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    try:
        yield partial
        if durable:
            sync(partial)
        partial.replace(target)
        if durable:
            sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(target: Path, content: str | bytes, durable: bool = False) -> None:
    """Writes a file atomically, text in UTF-8: readers see either the old contents or the new. See `atomic_path`."""
    with atomic_path(target, durable) as path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Waits until the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
