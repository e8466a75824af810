"""Checks an adapter with a large header in a process of its own, so that nothing else in the loader waits for it.

To parse the header of an adapter for 90,000 experts takes more than a second, in which Python runs little else. As a
program, `python -m rft_loader.check_process`, this is that process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rft_api.foreign.files import parse_bounded
from rft_api.foreign.memory import bounded_growth
from rft_api.foreign.sizes import format_size
from rft_loader.base_model import read_base_model
from rft_loader.problems import Problem
from rft_loader.validation import WEIGHTS, check_adapter

_DEADLINE_SECONDS = 120.0
"""The largest header that is read takes some five seconds on a free processor, and this process has the last turn."""
_MEMORY_BYTES = 1 << 30
"""Memory of the process. The largest header that is read takes less than half of it."""


def check_apart(version: Path, base: Path | None, maximum_rank: int) -> None:
    """Check an adapter as `check_adapter` does, in another process.

    Args:
        version: the folder of the adapter.
        base: the folder of the base model; None when its modules cannot be compared with the adapter's.
        maximum_rank: the largest rank that the server takes.

    Raises:
        Problem: for the first fault; also when the check takes too long, or too much memory.
    """
    command = [sys.executable, "-m", "rft_loader.check_process", str(version), str(maximum_rank)]
    if base is not None:
        command += ["--base", str(base)]
    try:
        end = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"to check its header took more than {_DEADLINE_SECONDS:g} s"
        raise Problem(f"{WEIGHTS}: {text}; it is tried again", permanent=False) from None
    if end.returncode:
        last = end.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise Problem(f"{WEIGHTS}: its header could not be checked: {last or f'exit code {end.returncode}'}", False)
    if end.stdout:
        raise Problem(**parse_bounded(end.stdout))


def main(arguments: list[str] | None = None) -> int:
    """Check the adapter that the command line names, and write its fault, if it has one, as JSON."""
    parser = argparse.ArgumentParser(prog="rft_loader.check_process", description="Checks an adapter.")
    parser.add_argument("version", type=Path, help="folder of the adapter")
    parser.add_argument("maximum_rank", type=int, help="the server's --max-lora-rank")
    parser.add_argument("--base", type=Path, help="folder of the base model")
    options = parser.parse_args(arguments)
    os.nice(19)
    try:
        with bounded_growth(_MEMORY_BYTES):
            base = None if options.base is None else read_base_model(options.base)
            check_adapter(options.version, base, options.maximum_rank)
    except Problem as problem:
        print(json.dumps({"message": str(problem), "permanent": problem.permanent}))
    except MemoryError:
        text = f"{WEIGHTS}: its header takes more than {format_size(_MEMORY_BYTES)} of memory; save fewer tensors"
        print(json.dumps({"message": text, "permanent": True}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
