"""The checks for GPUs: they are listed, and those that need none can be rehearsed; what a machine lacks is not met."""

import json
import subprocess
import sys
from pathlib import Path

from support.patience import PATIENCE_SECONDS

BENCH = Path(__file__).parents[2] / "bench/gpu"


def bench(*arguments):
    command = [sys.executable, str(BENCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_the_steps_are_listed_with_what_they_must_show():
    listed = bench("--list")
    assert listed.returncode == 0, listed.stderr
    names = [line.partition(":")[0] for line in listed.stdout.splitlines()]
    assert {"shared-job", "planner", "importance-ratio", "speed", "synchronization", "zero-3"} <= set(names)
    assert "planner: the most that torch reserves is within 10 % of the plan (needs a GPU)" in listed.stdout


def test_a_rehearsal_writes_a_table_and_a_file(tmp_path):
    """Steps that need a GPU are not run on CPUs, and so are not met."""
    results = tmp_path / "results.json"
    done = bench("--cpu", "--only", "versions", "precision", "planner", "--results", results)
    assert done.returncode == 0, done.stderr
    report = json.loads(results.read_text(encoding="utf-8"))
    met = {step["step"]: step["met"] for step in report["steps"]}
    assert met == {"versions": True, "precision": True, "planner": None}
    assert report["versions"]["torch"] in report["steps"][0]["figure"]
    figures = {step["step"]: step["figure"] for step in report["steps"]}
    assert figures["precision"] == "files float32, trainer float32, servers float32"
    assert figures["planner"] == "not run: it needs a GPU"
    for step in report["steps"]:
        assert f"| {step['step']} | {step['must']} | {step['figure']} |" in done.stdout
