"""The processes that belong to a worker itself and live on between batches; all others that it has are leftovers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

companions: set[int] = set()
"""Their ids; children of this process."""


def collect() -> None:
    """Takes leave of children that ended."""
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            companions.discard(ended)


def end_leftovers() -> None:
    """Kills leftovers, and what their end leaves to this process, until there are none."""
    give_up = time.monotonic() + 2
    while (found := _leftovers()) and time.monotonic() < give_up:
        for process in found:
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
    except OSError:  # a kernel without this list
        from rft_reward.processes import strays

        return strays(frozenset())
