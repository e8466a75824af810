"""Files that appear whole or not at all: they are written under another name, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def partial_path(target: Path) -> Path:
    """Where a file or folder is written before it gets its name; in the same folder, so that it can be renamed."""
    return target.with_name(target.name + PARTIAL_SUFFIX)


@contextmanager
def atomic_path(target: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write a file to, which replaces `target` when the block ends; after an error `target` is as it was.

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
    """Writes a file, text in UTF-8, so that readers see the old contents or the new; as `atomic_path`."""
    with atomic_path(target, durable) as path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Waits until a file's contents, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
