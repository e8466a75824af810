"""Finds the processes of workers in /proc, and kills those that were left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

_QUICK_LOOKS = 100
"""Looks for children in a row, each some 50 microseconds."""
_READ_BYTES = 65_536


def strays(workers: Set[int]) -> list[int]:
    """Return the descendants of this process that do not descend from any of the given `workers`.

    This process adopts orphans (`sandbox.adopt_orphans`). So all processes that a dead worker started are among them,
    also those in another session or process group.
    """
    return _strays_among(_children(), workers)


def _strays_among(children: Mapping[int, list[int]], workers: Set[int]) -> list[int]:
    processes = [child for child in children.get(os.getpid(), ()) if child not in workers]
    for process in processes:
        processes += children.get(process, ())
    return processes


def descendant(process: int, generations: int) -> int:
    """Return the first child of the first child, and so on for a number of generations, or the last one that exists."""
    for _ in range(generations):
        process = min(_children_of(process), default=process)
    return process


def offspring(process: int) -> list[int]:
    """Return the running descendants of a process."""
    return [descendant for descendant in _descendants(process) if _runs(descendant)]


def has_more(process: int, most: int) -> bool:
    """Return whether a process that is idle has more running descendants than so many.

    Processes that each start the next one and end would hardly ever be seen running. But they start new ones, which
    nobody else does.
    """
    descendants = _descendants(process)
    # Which of them run is looked at only where it matters: this happens after every batch.
    if len(descendants) > most and sum(map(_runs, descendants)) > most:
        return True
    return not set(_descendants(process)) <= set(descendants)


def _descendants(process: int) -> list[int]:
    """Return the descendants of a process, also those that have ended and whose parent has not yet asked for their
    status."""
    descendants: list[int] = []
    for parent in itertools.chain([process], descendants):
        descendants += _children_of(parent)
    return descendants


def _children_of(process: int) -> list[int]:
    # Plain texts as paths, because this happens after every batch, and pathlib takes longer than the kernel.
    tasks = f"/proc/{process}/task"
    try:
        with os.scandir(tasks) as threads:
            return [int(child) for thread in threads for child in _read(f"{thread.path}/children").split()]
    except OSError:
        # The process has ended, or the kernel does not have these lists.
        return _children()[process] if Path(tasks).exists() else []


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, _READ_BYTES), b""))
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    return any(map(_goes_on, folders(process)))


def folders(process: int) -> Iterator[Path]:
    """Yield the folders of a process in /proc, then those of its threads.

    When the first thread has ended, the process looks as if it had ended, and as if it had no memory. Its other threads
    show what they have together.
    """
    folder = Path(f"/proc/{process}")
    yield folder
    with contextlib.suppress(OSError):  # the process has ended
        yield from (folder / "task").iterdir()


def _goes_on(folder: Path) -> bool:
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def end_strays(workers: Set[int]) -> bool:
    """Kill strays until there are none. Return whether that succeeded."""
    for _ in range(400):
        _end_children(workers)
        # In a thread, because the kernel takes a while to tell of all processes of a machine. Workers that end or start
        # meanwhile are none.
        before = frozenset(workers)
        processes = _strays_among(await asyncio.to_thread(_children), before | workers)
        if not processes:
            return True
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        await asyncio.sleep(0.005)
    return False


def _end_children(workers: Set[int]) -> None:
    """Kill the children of this process that are no workers, and those that it inherits from them.

    They are killed as soon as they are seen: each may start the next one and end, long before all processes of the
    machine have been looked at. A process to which a signal is sent no longer starts another one.
    """
    own = os.getpid()
    listed = Path(f"/proc/{own}/task/{own}/children")
    for _ in range(_QUICK_LOOKS):
        try:
            children = [child for child in map(int, listed.read_text().split()) if child not in workers]
        except OSError:  # the kernel does not have this list
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _children() -> defaultdict[int, list[int]]:
    """Return the children of every process, by the id of their parent."""
    children = defaultdict(list)
    with os.scandir("/proc") as entries:
        listed = [entry.name for entry in entries if entry.name.isdigit()]
    for process in listed:
        try:
            # The name, in parentheses, may contain any characters. The state and the parent follow it.
            parent = int(_read(f"/proc/{process}/stat").rpartition(b")")[2].split()[1])
        except OSError:  # the process has ended
            continue
        children[parent].append(int(process))
    return children
