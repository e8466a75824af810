"""SmolLM2-135M-Instruct, the real model of the examples, made by the quickstart's script unless it is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.cache import Report, locked
from cluster.commands import run_reported

ROOT = Path(__file__).parents[2]


def prepare_model(report: Report) -> Path:
    """The model folder that every example names."""
    folder = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
    script = ROOT / "examples" / "quickstart" / "prepare_model.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with locked("model", report):  # test processes that begin at once would each make it
        run_reported([sys.executable, script, folder], "Preparing SmolLM2", report, environment=environment)
    return folder
