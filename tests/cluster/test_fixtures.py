"""Which tests run where."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.fixtures import place

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def collect(**environment: str) -> str:
    """What pytest says it would run."""
    files = [str(FOLDER / name) for name in ("test_node.py", "test_control_plane.py", "test_fixtures.py")]
    return run_pytest("--collect-only", *files, **environment)


def run_pytest(*arguments: str, **environment: str) -> str:
    """What pytest says when another cluster is given, which makes node tests impossible everywhere."""
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        cwd=ROOT, env={**inherited, "RFT_TEST_KUBECONFIG": "/nonexistent", **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_impossible_tests_are_left_out_and_named():
    said = collect()
    assert "test_node.py" not in said
    assert (
        "tests of a real node, of pods and of images were left out: RFT_TEST_KUBECONFIG gives another cluster" in said
    )


def test_several_processes_name_what_they_left_out_once():
    files = [str(FOLDER / "test_node.py"), str(ROOT / "tests" / "api" / "test_quantities.py")]
    said = run_pytest("--numprocesses=2", "--dist=loadfile", *files)
    assert said.count("were left out: RFT_TEST_KUBECONFIG gives another cluster") == 1


def test_in_ci_nothing_is_left_out_and_what_needs_most_runs_last():
    said = collect(CI="true")
    assert "were left out" not in said
    wanted = ["test_in_ci_nothing_is_left_out", "test_the_controllers_run", "test_the_node_is_what_kubectl_shows"]
    places = [said.index(name) for name in wanted]
    assert places == sorted(places)


def test_of_several_processes_one_begins_with_the_node_and_what_makes_nodes_comes_before_the_shared_one():
    one, shared = ["node_binaries"], ["node_binaries", "node", "api_server"]
    plain, server = ["tmp_path"], ["api_server"]
    tests = [plain, shared, server, one]
    assert sorted(tests, key=lambda fixtures: place(fixtures, several=True)) == [one, shared, server, plain]
    assert sorted(tests, key=lambda fixtures: place(fixtures, several=False)) == [plain, server, one, shared]
