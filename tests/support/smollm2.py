"""SmolLM2-135M-Instruct, the real model of the examples, made by the quickstart's script unless it is there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def prepare_model() -> Path:
    """The model folder that every example names."""
    folder = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
    script = ROOT / "examples" / "quickstart" / "prepare_model.py"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Test processes that begin at once would each make it.
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(
            [sys.executable, script, folder],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return folder
