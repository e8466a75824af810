"""What a test shares with others takes none of its time, and a wait ends when nothing moves any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import patience
from support.patience import PATIENCE_SECONDS, wait_until

TESTS = Path(__file__).parents[1]
EXAMPLES = """
import subprocess
import sys
import time
import pytest
from cluster.cache import locked
from support.patience import uncounted

HOLD = (
    "import time; from cluster.cache import locked\\n"
    "with locked('node', print): print('held', flush=True); time.sleep(20)"
)

@pytest.fixture(scope="session")
def shared():
    time.sleep(10)

@pytest.fixture
def own():
    time.sleep(10)

def test_waits_for_a_lock():
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    with uncounted():
        holder.stdout.readline()
    with locked("node", print):
        time.sleep(1)
    holder.wait()

def test_makes_what_others_share_too(shared):
    time.sleep(10)

def test_works_long_itself(own):
    time.sleep(10)

def test_works_long_after_a_wait():
    with uncounted():
        time.sleep(1)
    time.sleep(20)

@pytest.fixture(scope="session")
def hanging():
    time.sleep(20)

def test_shares_what_is_never_made(hanging):
    pass
"""


def test_only_its_own_time_counts_for_a_test(tmp_path):
    (tmp_path / "test_examples.py").write_text(EXAMPLES, encoding="utf-8")
    options = ["-p", "support.limits", "-o", "timeout=16", "-o", "cache_dir=cache", "-rA", "--numprocesses=4"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "XDG_CACHE_HOME": str(tmp_path), "RFT_TEST_SLOWNESS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    outcomes = {
        name.partition("::")[2].split()[0]: outcome
        for outcome, name in (line.split(" ", 1) for line in done.stdout.splitlines() if "::" in line and " " in line)
        if outcome in ("PASSED", "FAILED", "ERROR")
    }
    assert outcomes == {
        "test_waits_for_a_lock": "PASSED",
        "test_makes_what_others_share_too": "PASSED",
        "test_works_long_itself": "FAILED",
        "test_works_long_after_a_wait": "FAILED",
        "test_shares_what_is_never_made": "ERROR",
    }, done.stdout


def test_a_slow_machine_gets_more_of_everything():
    show = "from support import patience; print(patience.PATIENCE_SECONDS)"
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "RFT_TEST_SLOWNESS": "3"}
    shown = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True)
    assert float(shown.stdout) == 1800


def test_a_wait_goes_on_while_something_moves(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.5)
    steps: list[int] = []

    def advance() -> bool:
        steps.append(len(steps))
        return len(steps) == 8

    assert wait_until(advance, lambda: steps[-1], pause=0.2)


def test_a_wait_in_which_nothing_moves_fails_with_what_was_seen_last(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(AssertionError, match=r"nothing has changed for .*\nPending\nits log$"):
        wait_until(lambda: False, lambda: "Pending", lambda: "its log", pause=0.05)


def test_nothing_happens_to_a_clock_that_does_not_run():
    done = subprocess.run(
        [sys.executable, "-c", "from support.patience import uncounted\nwith uncounted(): print('done')"],
        env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "done\n"
