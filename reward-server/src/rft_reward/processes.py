"""Finds the processes of workers in /proc, and kills those that were left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Set
from pathlib import Path


def strays(workers: Set[int]) -> list[int]:
    """Descendants of this process that do not descend from any of the given `workers`.

    This process adopts orphans (`sandbox.adopt_orphans`). So all processes that a dead worker started are among them,
    also those in another session or process group.
    """
    children = _children()
    processes = [child for child in children[os.getpid()] if child not in workers]
    for process in processes:
        processes += children[process]
    return processes


def descendant(process: int, generations: int) -> int:
    """The first child of the first child, and so on for a number of generations, or the last one that exists."""
    children = _children()
    for _ in range(generations):
        process = min(children[process], default=process)
    return process


def offspring(process: int) -> list[int]:
    """The running descendants of a process."""
    descendants: list[int] = []
    for parent in itertools.chain([process], descendants):
        descendants += [child for child in _children_of(parent) if _runs(child)]
    return descendants


def _children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        # The process has ended, or the kernel does not have these lists.
        return _children()[process] if tasks.exists() else []


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def end_strays(workers: Set[int]) -> bool:
    """Kill strays until there are none. Return whether that succeeded."""
    for _ in range(400):
        processes = strays(workers)
        if not processes:
            return True
        for process in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        await asyncio.sleep(0.005)
    return False


def _children() -> defaultdict[int, list[int]]:
    """The children of every process, by the id of their parent."""
    children = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may contain any characters. The state and the parent follow it.
            parent = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # the process has ended
            continue
        children[parent].append(int(process.name))
    return children
