"""SmolLM2-135M-Instruct, the real model of the examples, made by the quickstart's script unless it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.cache import locked

ROOT = Path(__file__).parents[2]


def prepare_model() -> Path:
    """The model folder that every example names."""
    folder = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
    script = ROOT / "examples" / "quickstart" / "prepare_model.py"
    with locked("model", print):  # test processes that begin at once would each make it
        made = subprocess.run(
            [sys.executable, script, folder],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return folder
