"""Measures what the processes of a worker use together, which the kernel does not limit, and removes their files."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

from rft_reward import processes
from rft_reward.sandbox import MAXIMUM_LOCKS, SCRATCH_BYTES, SCRATCH_FILES

_LOCKS = Path("/proc/locks")
_LOCK = re.compile(rb"POSIX +\S+ +\S+ +(\d+) ")
"""A line of the kernel's list of locks, with the process that holds it or waits for it."""
_MOST_OF_THE_LOCKS = 384 << 10
"""Bytes that are read of the list, which are more than `MAXIMUM_LOCKS` take: the list may be of any length."""


class Excess(NamedTuple):
    """A limit that a worker exceeds."""

    reason: str
    message: str
    is_certain: bool = False
    """Whether one measurement is enough. It is not for the memory of processes: one that is about to execute a program
    still has its parent's."""


class Watch:
    """Checks the limits of one worker."""

    def __init__(self, worker: int, memory: str, memory_bytes: int, scratch: Path | None, *, own_network: bool):
        """Measure the worker as it is now, to compare with later.

        Args:
            worker: id of its process.
            memory: its memory limit, for messages.
            memory_bytes: the same in bytes.
            scratch: the folder to measure; None if it is a file system with its own size.
            own_network: whether the worker's network has no sockets of others.
        """
        self._worker = worker
        self._sockets = Path(f"/proc/{worker}/net/unix") if own_network else None
        self._memory, self._memory_bytes = memory, memory_bytes
        self._scratch = scratch
        self._before = _own_bytes(worker)

    def excess(self) -> Excess | None:
        """Return the limit that the worker and its descendants exceed together; None if none is."""
        held = 0 if self._sockets is None else _socket_bytes(self._sockets)
        text = f"the code's processes together used more than {self._memory}"
        memory = f"{text}: make them use less, or raise spec.sandbox.memory"
        if held > self._memory_bytes:
            return Excess("memory", memory, is_certain=True)
        # Forks of the worker share its initial memory until they write to it.
        members = {self._worker, *processes.offspring(self._worker)}
        if held + sum(max(0, _own_bytes(process) - self._before) for process in members) > self._memory_bytes:
            return Excess("memory", memory)
        if _locks_of(members) > MAXIMUM_LOCKS:
            return Excess("memory", f"the code held more than {MAXIMUM_LOCKS:,} locks of files: make it hold fewer")
        if self._scratch is not None and _holds_more(self._scratch, SCRATCH_BYTES, SCRATCH_FILES):
            text = f"the code wrote more than {SCRATCH_BYTES >> 20} MiB or {SCRATCH_FILES} files, or hid a folder"
            return Excess("scratch", f"{text}: make it write less")
        return None

    def crowded(self) -> bool:
        """Return whether the files in the scratch folder leave too little room for the next batch."""
        return self._scratch is not None and _holds_more(self._scratch, SCRATCH_BYTES // 2, SCRATCH_FILES // 2)


def _own_bytes(process: int) -> int:
    """Return the resident memory of a process that is not mapped from files; what several processes share counts for
    each."""
    for folder in processes.folders(process):
        try:
            resident, shared = map(int, (folder / "statm").read_text().split()[1:3])
            if not resident:  # this thread has ended
                continue
            lines = (folder / "status").read_text(errors="replace").splitlines()
        except OSError:  # the process has ended
            continue
        # What statm calls shared is mapped from files, or memory that processes share, which not every kernel tells.
        memory = sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssShmem:"))
        return (resident - shared) * resource.getpagesize() + memory
    return 0


def _locks_of(members: Set[int]) -> int:
    """Return the locks of parts of files that processes hold or wait for, as far as the beginning of the list tells."""
    try:
        with _LOCKS.open("rb") as file:
            text = file.read(_MOST_OF_THE_LOCKS)
    except OSError:  # /proc hides it
        return 0
    return sum(int(process) in members for process in _LOCK.findall(text))


def _socket_bytes(table: Path) -> int:
    """Return the memory that all Unix sockets of a network can hold in the kernel; their buffers have the usual
    size."""
    try:
        sockets = table.read_bytes().count(b"\n") - 1  # the first line is a title
        return sockets * int(Path("/proc/sys/net/core/wmem_default").read_text())
    except OSError:  # the worker has ended, or /proc hides it
        return 0


def _holds_more(folder: Path, most_bytes: int, most_files: int) -> bool:
    used, files, folders = 0, 0, [str(folder)]
    for inner in folders:
        try:
            with os.scandir(inner) as entries:
                for entry in entries:
                    files += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
                    if used > most_bytes or files > most_files:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:  # the folder cannot be read, or its path is too long
            return True
    return False


def remove(folder: Path) -> None:
    """Remove a folder to which code wrote, for any depth and any permissions of its folders."""
    with contextlib.suppress(OSError):
        while folders := _remove_files(folder):
            for inner in folders:
                for deeper in _remove_files(inner):
                    # Inner folders are moved up, so that neither paths nor calls become too deep.
                    deeper.rename(folder / secrets.token_hex(16))
                inner.rmdir()
        folder.rmdir()


def _remove_files(folder: Path) -> list[Path]:
    """Remove everything that is not a folder. Return the folders, after making them readable and movable."""
    folders = []
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            entry.chmod(0o700)
            folders.append(entry)
        else:
            entry.unlink()
    return folders
