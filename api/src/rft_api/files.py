"""Files that are written, also into folders where others may write: atomically, and never through a link."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL_SUFFIX = ".partial"


def partial_path(target: Path) -> Path:
    """Return the path at which a file or folder is written before it is renamed to `target`; it is in the same
    folder."""
    return target.with_name(target.name + PARTIAL_SUFFIX)


def open_new(path: Path) -> BinaryIO:
    """Create a file and open it to write bytes; what has its name is removed first.

    A symbolic link in its place is removed, too, and never followed: it could lead to any file of this user.

    Raises:
        OSError: when it cannot be created, or somebody else creates one of its name at the same time.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "wb")


def open_in_place(path: Path) -> BinaryIO:
    """Open a file to append bytes to it, and to read it; it is created if it does not exist.

    Raises:
        OSError: when it cannot be opened; when it is a symbolic link, has a second name, or is no regular file, so that
            something else than this file would be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            reason = "is a symbolic link, which is not written through; remove it"
            raise OSError(errno.ELOOP, reason, str(path)) from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return os.fdopen(descriptor, "ab+")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        reason = "has a second name (a hard link), under which it would change, too; put a copy in its place"
        raise OSError(errno.EMLINK, reason, str(path))
    raise OSError(errno.EINVAL, "is no regular file; remove it", str(path))


@contextmanager
def atomic_file(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to write to. It replaces `target` when the block ends; after an error `target` is unchanged.

    Args:
        target: the file; missing folders above it are made.
        durable: whether the file is on the disk before it has its name, so that it survives a crash of the machine.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    try:
        with open_new(partial) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(target)
        if durable:
            sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to fill. It replaces `target` when the block ends; after an error `target` is unchanged.

    Only one process at a time may write to a target. What an interrupted one has left is removed.
    """
    partial = partial_path(target)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def atomic_write(target: Path, content: str | bytes, durable: bool = False) -> None:
    """Write a file atomically, text in UTF-8: readers see either the old contents or the new. See `atomic_file`."""
    with atomic_file(target, durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
