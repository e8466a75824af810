"""The checks for GPUs: they are listed, and those that need none can be rehearsed; what a machine lacks is not met."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import PATIENCE_SECONDS
from support.tiny import write_model

BENCH = Path(__file__).parents[2] / "bench/gpu"


@pytest.fixture
def program(monkeypatch):
    """The program as a module, with those of its folder."""
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("checks", "machine", "rollouts"):
        sys.modules.pop(name, None)


def bench(*arguments):
    command = [sys.executable, str(BENCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_the_steps_are_listed_with_what_they_must_show():
    listed = bench("--list")
    assert listed.returncode == 0, listed.stderr
    names = [line.partition(":")[0] for line in listed.stdout.splitlines()]
    assert {"shared-job", "planner", "importance-ratio", "speed", "synchronization", "zero-3"} <= set(names)
    assert "planner: the most that an update allocates is within 10 % of the plan (needs a GPU)" in listed.stdout


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


def test_a_step_that_fails_says_why_and_the_next_ones_are_run(program, monkeypatch, tmp_path, capsys):
    """A job that several steps ask for is not run again when it has failed."""
    runs = []

    class Failing(program.Machine):
        @sys.modules["machine"].Once
        def own_job(self):
            runs.append(1)
            raise RuntimeError("exit code 17:\nmany lines\nno such device")

    def fails(machine):
        return str(machine.own_job), True

    def works(machine):
        return "figure", True

    steps = [program.Step(name, "ends", "nothing", check) for name, check in (("a", fails), ("b", fails), ("c", works))]
    monkeypatch.setattr(program, "STEPS", steps)
    monkeypatch.setattr(program, "Machine", Failing)
    results = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["bench/gpu", "--cpu", "--results", str(results)])
    assert program.main() == 1
    table = capsys.readouterr().out
    assert "| a | ends | RuntimeError: exit code 17: ... no such device | **no** |" in table
    assert "| b | ends | RuntimeError: as before: RuntimeError: exit code 17: ... no such device | **no** |" in table
    assert "| c | ends | figure | yes |" in table
    assert runs == [1]
    assert [step["met"] for step in json.loads(results.read_text(encoding="utf-8"))["steps"]] == [False, False, True]


def test_an_interrupted_program_prints_what_it_has(program, monkeypatch, tmp_path, capsys):
    def interrupts(machine):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "STEPS", [program.Step("a", "ends", "nothing", interrupts)])
    monkeypatch.setattr(sys, "argv", ["bench/gpu", "--cpu", "--results", str(tmp_path / "results.json")])
    assert program.main() == 1
    assert "| a | ends | not run: interrupted | not run |" in capsys.readouterr().out


def test_the_largest_pass_of_a_run_is_seen(program, tmp_path):
    """With a GPU its memory is compared with the plan of this pass."""
    with program.Machine(tmp_path, write_model(tmp_path / "tiny"), gpus=0) as machine:
        config = machine.config(machine.own_compute, maxSteps=1)
        code, seen, log = machine.watched(config, limit=0)
    assert code == 0, log
    assert 0 < seen["width"] <= seen["tokens"]
    assert 0 < seen["scored"] < seen["tokens"]
