"""`rft` as a program of its own: a test reads what it says while it runs, and interrupts it as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support.patience import wait_until

# A shell starts what runs in its background with SIGINT ignored, and Python leaves that so.
_CODE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from rft_cli.main import app; app()"
_MOST_BYTES = 1 << 20


class RftProgram:
    """A command of `rft` while it runs, ended with everything that it has started.

    Args:
        arguments: what stands behind `rft`.
        folder: the folder in which it runs; by default that of the test.
        environment: its environment; by default that of the test.
    """

    def __init__(self, *arguments: object, folder: Path | None = None, environment: Mapping[str, str] | None = None):
        self._arguments = [str(argument) for argument in arguments]
        self._output, self._errors = os.memfd_create("output"), os.memfd_create("errors")
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _CODE, *self._arguments],
            cwd=folder,
            env=environment,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def __enter__(self) -> RftProgram:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._output)
        os.close(self._errors)

    @property
    def output(self) -> str:
        """What it has written to its standard output."""
        return _written(self._output)

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return _written(self._errors)

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def wait_for(self, text: str) -> None:
        """Return when it has written a text to its standard output.

        Raises:
            AssertionError: it has ended without, or nothing happens; with what it has written.
        """

        def is_written() -> bool:
            ended = self.has_ended  # asked first: what it wrote as the last is there then
            if text in self.output:
                return True
            assert not ended, f"rft {self._arguments} has ended without {text!r}:\n{self.output}{self.errors}"
            return False

        wait_until(is_written, explain=lambda: f"no {text!r} of rft {self._arguments}:\n{self.output}{self.errors}")

    def interrupt(self) -> None:
        """Do what Ctrl-C does in a terminal: signal it, and the programs that it has started."""
        os.killpg(self._process.pid, signal.SIGINT)

    def finish(self) -> int:
        """Return its exit code when it has ended.

        Raises:
            AssertionError: it neither writes nor ends.
        """
        explain = f"rft {self._arguments} does not end"
        wait_until(lambda: self.has_ended, lambda: len(self.output), lambda: f"{explain}:\n{self.output}{self.errors}")
        return int(self._process.returncode)


def _written(file: int) -> str:
    # The program writes at the position of the same file, which this does not move.
    return os.pread(file, _MOST_BYTES, 0).decode(errors="replace")
