"""How a process tells why it ended: on standard error, and in a pod as the termination message."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from rft_api.exit_codes import ExitCode
from rft_api.summary import Summary
from rft_api.termination import MAXIMUM_BYTES, success_message


def report_end(code: ExitCode, message: str, rank: int = 0) -> ExitCode:
    """Says why this process ends; returns the code."""
    # Every rank may find the same error in the same data; one report is enough, and comes from whoever finds it alone.
    prefix = "error" if code is not ExitCode.INTERRUPTED else "stopped"
    print(f"{prefix}: {message}" if rank == 0 else f"rank {rank}: {prefix}: {message}", file=sys.stderr, flush=True)
    _write_termination_message(f"{code.reason}: {message}")
    return code


def report_result(summary: Summary) -> None:
    """Leaves a run's result as the termination message, from which the operator takes it."""
    _write_termination_message(success_message(summary))


def _write_termination_message(text: str) -> None:
    target = os.environ.get("RFT_TERMINATION_LOG")
    if target:
        encoded = text.encode()[:MAXIMUM_BYTES]
        with contextlib.suppress(OSError):
            Path(target).write_text(encoded.decode(errors="ignore"), encoding="utf-8")
