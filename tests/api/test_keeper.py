"""The keeper: a program and all that it started end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.patience import PATIENCE_SECONDS, wait_until

from rft_api import keeper

# Starts a process that ignores SIGTERM, says both process ids, and waits.
PROGRAM = """
import os, subprocess, sys, time
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(10 ** 6)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
print(os.getpid(), child.pid, flush=True)
time.sleep(10 ** 6)
"""


def keep(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", "-E", keeper.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def kept() -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    process = keep(sys.executable, "-c", PROGRAM)
    assert process.stdout is not None
    program, child = map(int, process.stdout.readline().split())
    yield process, program, child
    process.kill()
    with suppress(ProcessLookupError):
        os.killpg(program, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def wait_until_gone(*processes: int) -> None:
    def is_gone(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(lambda: all(map(is_gone, processes)), explain=lambda: f"of the processes {processes} one is still there")


def test_the_group_ends_when_the_parent_closes_the_pipe(kept):
    process, program, child = kept
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGKILL
    wait_until_gone(program, child)


def test_sigterm_is_passed_on_and_what_is_left_behind_ends(kept):
    process, program, child = kept
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    wait_until_gone(program, child)


def test_the_program_ends_with_a_killed_keeper(kept):
    process, program, _ = kept
    process.kill()
    wait_until_gone(program)


def test_the_exit_code_is_the_programs():
    process = keep(sys.executable, "-c", "raise SystemExit(11)")
    assert process.wait(PATIENCE_SECONDS) == 11


def test_ctrl_c_works_in_the_program():
    process = keep(sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)")
    assert process.stdout is not None
    assert process.stdout.read() == "True\n"
