"""Signals end a command in order, wherever they come."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

FINALIZER = """
import os, signal, time
import typer
from rft_cli.user_errors import user_errors

# A shell starts what runs in its background with SIGINT ignored, and Python leaves that so.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number})
        [None for _ in range(1000)]

def command():
    with user_errors():
        try:
            Finalized()
            time.sleep(600)
        finally:
            print("in order")

typer.run(command)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_comes_in_a_finalizer_is_not_lost(number, code):
    command = [sys.executable, "-c", FINALIZER.format(number=int(number))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("in order\n", "", code)
