"""Runs the processes of a stage: stops all of them when the launcher is told to stop or one of them fails."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rft_api.exit_codes import ExitCode
from rft_api.foreign.files import MAXIMUM_DOCUMENT, read_file
from rft_api.scratch import scratch_folder
from rft_trainer.ending import REPORT_FILE, Ending, ProcessEnd, group_ending

POLL_SECONDS = 0.2
GRACE_SECONDS = float(os.environ.get("RFT_GRACE_SECONDS", "600"))
"""Seconds that processes have to save a checkpoint after SIGTERM before they are killed."""
FAILURE_GRACE_SECONDS = 10.0
"""Seconds until the others are killed after one process has failed: they wait for it, and cannot go on."""
_KERNEL_COUNTERS = Path("/proc/vmstat")


@dataclass(frozen=True)
class Command:
    """How one process is started."""

    rank: int
    """Its number among all processes of the run."""
    arguments: list[str]
    """Program and arguments."""
    environment: dict[str, str]
    """Its whole environment."""


class ProcessGroup:
    """Runs the stages of a run one after the other, and handles SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def run(self, commands: Sequence[Command]) -> Ending:
        """Start the processes and wait for all of them; return why they ended."""
        if self._stopping:
            return Ending(ExitCode.INTERRUPTED, "stopped before the next stage; start again to go on")
        previous_kills = count_kernel_kills()
        with scratch_folder("rft-reports-") as folder:
            files = [folder / str(command.rank) for command in commands]
            self._processes = [
                subprocess.Popen(command.arguments, env={**command.environment, REPORT_FILE: str(file)})
                for command, file in zip(commands, files, strict=True)
            ]
            if self._stopping:
                self._signal(signal.SIGTERM)  # the signal came while the processes were being started
            moments, killed = self._wait()
            ends = [
                ProcessEnd(
                    rank=command.rank,
                    status=process.returncode,
                    report=read_file(file, MAXIMUM_DOCUMENT).decode("utf-8", "replace") if file.exists() else "",
                    moment=moment,
                    stopped=stopped,
                )
                for command, file, process, moment, stopped in zip(
                    commands, files, self._processes, moments, killed, strict=True
                )
            ]
        ending = group_ending(ends, count_kernel_kills() - previous_kills)
        if self._stopping and ending.code == ExitCode.UNEXPECTED and all(end.status < 0 or end.stopped for end in ends):
            # The signal came before the processes could handle it, or they did not end in time.
            return Ending(ExitCode.INTERRUPTED, f"{ending.message}; start again to go on")
        return ending

    def _wait(self) -> tuple[list[float], list[bool]]:
        """Wait for all processes; return when each ended, and whether it had to be killed."""
        moments = [math.inf] * len(self._processes)
        killed = [False] * len(self._processes)
        deadline = math.inf
        while math.inf in moments:
            now = time.monotonic()
            for index, process in enumerate(self._processes):
                if moments[index] == math.inf and process.poll() is not None:
                    moments[index] = now
            failed = any(process.returncode not in (None, 0) for process in self._processes)
            if self._stopping:
                deadline = min(deadline, now + GRACE_SECONDS)
            elif failed:
                deadline = min(deadline, now + FAILURE_GRACE_SECONDS)
            if now > deadline:
                killed = [flag or moment == math.inf for flag, moment in zip(killed, moments, strict=True)]
                self._signal(signal.SIGKILL)
            if math.inf in moments:
                time.sleep(POLL_SECONDS)
        return moments, killed

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def count_kernel_kills() -> int:
    """Return how many processes the kernel has killed since boot because memory ran out; 0 if unknown."""
    try:
        lines = _KERNEL_COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counters = dict(line.split() for line in lines)
    return int(counters.get("oom_kill", "0"))
