"""Finds the processes of workers, from /proc, and ends those that were left behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Set
from pathlib import Path


def strays(known: Set[int]) -> list[int]:
    """Descendants of this process that descend from none of its `known` children.

    This process adopts orphans (`sandbox.adopt_orphans`), so whatever a dead worker started is among them, even in
    another session or process group.
    """
    children = _children()
    found = [child for child in children[os.getpid()] if child not in known]
    for process in found:
        found += children[process]
    return found


def descendant(process: int, generations: int) -> int:
    """The first child's first child and so on, or the last one there is."""
    children = _children()
    for _ in range(generations):
        process = min(children[process], default=process)
    return process


def offspring(process: int) -> list[int]:
    """Descendants of a process that run."""
    found: list[int] = []
    for parent in itertools.chain([process], found):
        found += [child for child in _children_of(parent) if _runs(child)]
    return found


def _children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        # It ended meanwhile, or this kernel has no such lists.
        return _children()[process] if tasks.exists() else []


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def end_strays(known: Set[int]) -> bool:
    """Kills strays until none is left; whether that succeeded."""
    for _ in range(400):
        found = strays(known)
        if not found:
            return True
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
        await asyncio.sleep(0.005)
    return False


def _children() -> defaultdict[int, list[int]]:
    """The children of every process."""
    children = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in parentheses, may hold anything; state and parent follow it.
            parent = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children[parent].append(int(process.name))
    return children
