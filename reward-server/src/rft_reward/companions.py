"""The companions of a worker: processes that belong to it and live on between batches. All others are leftovers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

companions: set[int] = set()
"""Process ids of the companions, which are children of this process."""


def collect() -> None:
    """Reap exited children."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            companions.discard(ended)


def end_leftovers() -> None:
    """Kill leftover processes, and those that this process inherits from them, until there are none."""
    deadline = time.monotonic() + 2
    while (leftovers := _leftovers()) and time.monotonic() < deadline:
        for process in leftovers:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.001)


def _leftovers() -> list[int]:
    collect()
    return [child for child in _children() if child not in companions]


def _children() -> list[int]:
    own = os.getpid()
    try:
        return [int(child) for child in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    except OSError:  # the kernel does not have this list
        from rft_reward.processes import strays

        return strays(frozenset())
