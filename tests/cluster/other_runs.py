"""Runs of other processes that are killed, for the tests of what outlives a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
from support.patience import PATIENCE_SECONDS, wait_until

from cluster.node import clean_up
from cluster.runs import remove_abandoned, wait_until_removed
from cluster.versions import MODULES


class OtherRun:
    """A process with a run of its own.

    Args:
        code: what it executes. It prints the folder of its run in a line of its own when all has started, and waits.
        count: number of processes that it starts, if they are always so many.

    Attributes:
        folder: the folder of its run.
        programs: all processes that it has started.
    """

    def __init__(self, code: str, count: int = 0):
        environment = {**os.environ, "PYTHONPATH": str(MODULES.parents[1])}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.folder = next(Path(line.strip()) for line in self._process.stdout if line.startswith("/"))
        started = psutil.Process(self._process.pid)
        # A keeper may just be starting its program.
        wait_until(lambda: len(started.children(recursive=True)) >= count)
        self.programs = started.children(recursive=True)

    def kill(self) -> None:
        """Kills it: its programs end with it, and the next run removes its folder."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        _, alive = psutil.wait_procs(self.programs, timeout=PATIENCE_SECONDS)
        assert not alive
        remove_abandoned(clean_up)
        wait_until_removed(self.folder)
