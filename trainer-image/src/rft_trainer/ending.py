"""Reports why a run ended: each process tells the launcher, which tells the log and, in a pod, Kubernetes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rft_api.exit_codes import ExitCode
from rft_api.summary import Summary
from rft_api.termination import (
    MAXIMUM_BYTES,
    TERMINATION_FILE,
    add_missing,
    failure_message,
    format_end,
    parse_failure,
    success_message,
)

REPORT_FILE = "RFT_REPORT_FILE"
"""Environment variable with the path of the file to which a process writes its report for the launcher."""


@dataclass(frozen=True)
class Ending:
    """Why a run, or one of its processes, ended."""

    code: ExitCode
    """The exit code."""
    message: str = ""
    """The sentence for the user; for a run that succeeded, its result as JSON."""

    @property
    def termination_message(self) -> str:
        """The ending as a pod's termination message."""
        return self.message if self.code == ExitCode.SUCCEEDED else failure_message(self.code, self.message)


@dataclass(frozen=True)
class ProcessEnd:
    """How one process of a group ended."""

    rank: int
    """Its number among all processes of the run."""
    status: int
    """Its exit code; minus the signal's number when a signal ended it."""
    report: str = ""
    """The content of its report file."""
    moment: float = 0.0
    """When the launcher noticed its end, in seconds of the clock."""
    stopped: bool = False
    """Whether the launcher has killed it, because another process had failed or because it did not end in time."""


def group_ending(ends: Sequence[ProcessEnd], kernel_kills: int = 0) -> Ending:
    """Return why a group of processes ended.

    A process that reports a reason has precedence over the processes that failed because of it. Permanent errors come
    first, then other errors with a reason, then the rest; among equals, the process that ended first decides.

    Args:
        ends: how each process ended.
        kernel_kills: how many processes the kernel has killed during the stage because memory ran out.
    """
    failed = sorted((end for end in ends if end.status != 0), key=lambda end: (end.stopped, end.moment, end.status > 0))
    if not failed:
        return Ending(ExitCode.SUCCEEDED, next((end.report for end in ends if end.rank == 0), ""))
    with_reason = [end for end in failed if _code(end.status) != ExitCode.UNEXPECTED]
    permanent = [end for end in with_reason if _code(end.status).permanent]
    cause = (permanent or with_reason or failed)[0]
    message = parse_failure(cause.report).message or _describe(cause, kernel_kills)
    return Ending(_code(cause.status), message)


def _code(status: int) -> ExitCode:
    return ExitCode(status) if status in set(ExitCode) else ExitCode.UNEXPECTED


def _describe(end: ProcessEnd, kernel_kills: int) -> str:
    """Describe the end of a process that has written no report."""
    process = f"the process of rank {end.rank}"
    if end.stopped:
        return f"{process} did not end in time and was killed; the run resumes from its last complete checkpoint"
    if end.status == -signal.SIGKILL and kernel_kills:
        return (
            f"the kernel has killed {process} because the machine's or the pod's memory ran out: give it more "
            f"(spec.compute.pod.resources), or lower spec.hyperparameters.tokensPerMicroBatch or spec.compute."
            f"processesPerNode"
        )
    if end.status == -signal.SIGKILL:
        return f"{process} was killed (SIGKILL); if the kernel killed it, memory ran out: see dmesg"
    if end.status < 0:
        return f"{process} was ended by signal {-end.status} ({signal.Signals(-end.status).name})"
    return f"{process} ended with code {end.status}; its output says why"


def report_end(code: ExitCode, message: str, rank: int) -> ExitCode:
    """Report to the launcher why this process ends; return the code."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # The launcher prints one of these sentences again, without the rank.
        print(format_end(code, message, rank), file=sys.stderr, flush=True)
    _report(Ending(code, message))
    return code


def report_result(summary: Summary, changed_inputs: Sequence[str]) -> None:
    """Report the result of a run that has succeeded to the launcher, with the inputs that are no longer its own."""
    _report(Ending(ExitCode.SUCCEEDED, success_message(summary, changed_inputs)))


def _report(ending: Ending) -> None:
    target = os.environ.get(REPORT_FILE)
    if target is None:
        announce(ending)  # the process was started without a launcher
    else:
        # On a full disk, only the exit code reaches the launcher.
        with contextlib.suppress(OSError):
            Path(target).write_text(ending.termination_message, encoding="utf-8")


def with_missing(ending: Ending, sentences: Sequence[str]) -> Ending:
    """Return the ending of a run with what has not reached its trackers; only a result says so, the log does anyway."""
    if ending.code != ExitCode.SUCCEEDED or not sentences:
        return ending
    return Ending(ending.code, add_missing(ending.message, sentences))


def announce(ending: Ending) -> ExitCode:
    """Write why the run has ended to the log and to the pod's termination message; return the exit code."""
    if ending.code != ExitCode.SUCCEEDED:
        print(format_end(ending.code, ending.message), file=sys.stderr, flush=True)
    target = os.environ.get(TERMINATION_FILE)
    if target and ending.message:
        encoded = ending.termination_message.encode()[:MAXIMUM_BYTES]
        with contextlib.suppress(OSError):
            Path(target).write_text(encoded.decode(errors="ignore"), encoding="utf-8")
    return ending.code
