"""Run the programs of a run as child processes that end with this process."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx

from rft_api import keeper
from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import open_in_place
from rft_api.foreign.files import MAXIMUM_DOCUMENT, open_file, read_file
from rft_api.foreign.text import one_line, printable
from rft_api.readiness import READINESS_PATH, Readiness, find_address
from rft_api.remote_graders import reads_credential
from rft_api.reward_document import reward_document
from rft_api.reward_function import RewardFunction
from rft_cli.caches import cache_folder

RESTARTS = 3
"""How many times a reward server is started again after it has ended."""
LOG_LINES = 20
"""Number of lines of a program's log that are shown when it has failed without a message of its own."""
OUTPUT_BYTES = 1 << 20
"""Number of bytes at the end of a program's log that are looked at."""
POLL_SECONDS = 0.1
_INHERITED = {
    "ALL_PROXY", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "NO_PROXY",
    "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "USER",
}  # fmt: skip
"""Environment variables that every reward server gets."""
PACKAGES = cache_folder("reward-packages")
"""Folder of the packages that reward code declares; those of each list are installed once."""
STOP_SECONDS = 10.0
"""Seconds that a program has to end after SIGTERM, before it is killed."""


class Program:
    """A running program whose output is appended to a log file.

    Args:
        command: the program and its arguments.
        log: the file to which its standard output and standard error are appended.
        environment: its environment variables.

    Raises:
        RunError: OUTPUT_INVALID when the log cannot be written.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]):
        self.log = log
        with _open_log(log) as output:
            self._log_start = output.seek(0, os.SEEK_END)
            # With -S and -E Python starts faster; the keeper needs neither site packages nor PYTHON* variables.
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-E", keeper.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal signals only this process, which passes it on.
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )

    def exit_code(self) -> int | None:
        """Return the exit code, 128 + N after signal N, or None while the program runs."""
        return self._keeper.poll()

    def output(self) -> str:
        """Return the end of the output so far, without the output of earlier starts in the same log."""
        with open_file(self.log) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - OUTPUT_BYTES))
            return file.read(OUTPUT_BYTES).decode(errors="replace")

    def last_lines(self, count: int) -> str:
        """Return the last lines of the output."""
        return "\n".join(self.output().splitlines()[-count:])

    def terminate(self) -> None:
        """Ask the program to end (SIGTERM)."""
        if self.exit_code() is None:
            self._keeper.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program and all processes that it has started."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.wait()

    def stop(self) -> None:
        """Ask the program to end, and kill it after `STOP_SECONDS`."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(STOP_SECONDS)
        self.kill()


def reward_environment(function: RewardFunction, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the reward server of a function.

    It has the variables that every program needs, and the credentials that the function names.
    """
    return {
        "OMP_NUM_THREADS": "1",
        **{
            name: value
            for name, value in environment.items()
            if name.upper() in _INHERITED or name.startswith("LC_") or reads_credential(function.spec, name)
        },
    }


class RewardServer:
    """The reward server of one RewardFunction, as a child process. It is a context manager, which stops the server.

    The packages that the code declares are installed first, unless they are installed already.

    Args:
        function: the function, with its code inlined.
        private: a folder that only this user can read, for the token.
        log: the file to which the output of the server is appended.
        on_wait: called again and again while the packages are installed.

    Raises:
        RunError: CONFIGURATION_INVALID when the packages cannot be installed; OUTPUT_INVALID when the log cannot be
            written.
    """

    def __init__(self, function: RewardFunction, private: Path, log: Path, on_wait: Callable[[], None] = lambda: None):
        self.name = function.metadata.name
        self.url = ""
        self.token_file = private / f"{self.name}.token"
        self._function_file = private / f"{self.name}.json"
        self._log = log
        self._environment = reward_environment(function, os.environ)
        self._restarts_left = RESTARTS
        _write_private(self.token_file, secrets.token_urlsafe(32))
        _write_private(self._function_file, reward_document(function))
        if function.spec.requirements():
            self._install_packages(on_wait)
        self._program = self._start(port=0)

    def _install_packages(self, on_wait: Callable[[], None]) -> None:
        command = [sys.executable, "-m", "rft_reward.packages", "--function", str(self._function_file)]
        with _open_log(self._log) as log, tempfile.TemporaryFile() as errors:
            # The installer gets the whole environment, which may name a package index and proxies.
            installation = subprocess.Popen(
                [*command, "--packages", str(PACKAGES)], stdin=subprocess.DEVNULL, stdout=log, stderr=errors
            )
            try:
                while installation.poll() is None:
                    on_wait()
                    time.sleep(POLL_SECONDS)
            finally:
                installation.kill()  # after Ctrl-C; one that has ended stays as it is
                installation.wait()
            errors.seek(0)
            reason = printable(errors.read(OUTPUT_BYTES).decode(errors="replace").strip())
        if installation.returncode != 0:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"RewardFunction {self.name}: {reason}")

    @property
    def token(self) -> str:
        """The bearer token of the server's API."""
        return read_file(self.token_file, MAXIMUM_DOCUMENT).decode("ascii")

    def _start(self, port: int) -> Program:
        command = [sys.executable, "-m", "rft_reward", "--function", str(self._function_file)]
        command += ["--port", str(port), "--token-file", str(self.token_file), "--packages", str(PACKAGES)]
        return Program(command, self._log, self._environment)

    def wait_until_ready(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait until the tests of the function have passed, or until `cancelled` returns True.

        Raises:
            RunError: REWARD_FAILING when the tests fail or the server ends; CONFIGURATION_INVALID when the server
                rejects the function.
        """
        while not cancelled():
            self._fail_if_ended()
            if not self.url:
                self.url = find_address(self._program.output()) or ""
            elif ask_readiness(self.name, self.url):
                return
            time.sleep(POLL_SECONDS)

    def _fail_if_ended(self) -> None:
        code = self._program.exit_code()
        if code is None:
            return
        output = printable(self._program.last_lines(LOG_LINES))
        if code == ExitCode.CONFIGURATION_INVALID:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"RewardFunction {self.name}: {output}")
        raise RunError(ExitCode.REWARD_FAILING, f"the reward server of {self.name} ended with code {code}:\n{output}")

    def keep_alive(self) -> bool:
        """Start the server again on the same port when it has ended, and return whether it was started again.

        Raises:
            RunError: REWARD_FAILING when it has ended more than `RESTARTS` times.
        """
        if self._program.exit_code() is None:
            return False
        if self._restarts_left == 0:
            self._fail_if_ended()
        self._restarts_left -= 1
        self._program = self._start(port=int(self.url.rsplit(":", 1)[1]))
        return True

    def stop(self) -> None:
        """Stop the server."""
        self._program.stop()

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def ask_readiness(function: str, url: str) -> bool:
    """Return whether the reward server of a function is ready; False while it does not answer or its workers start.

    Raises:
        RunError: REWARD_FAILING when the code of the function cannot be loaded, or its tests fail.
    """
    try:
        response = httpx.get(f"{url}{READINESS_PATH}", timeout=10, trust_env=False)
    except httpx.TransportError:
        return False
    readiness = Readiness.model_validate_json(response.text)
    if not readiness.failures:
        return readiness.ready
    reasons = "\n".join(f"  {one_line(line)}" for line in readiness.message.splitlines())
    raise RunError(ExitCode.REWARD_FAILING, f"RewardFunction {function} is not ready:\n{reasons}")


def _open_log(path: Path) -> BinaryIO:
    """Open a log to append to it. In a copy of a folder that shares its files with the original, it begins anew.

    Raises:
        RunError: OUTPUT_INVALID when it cannot be written.
    """
    try:
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
            path.unlink()
        return open_in_place(path)
    except OSError as error:
        raise RunError(ExitCode.OUTPUT_INVALID, f"{path} cannot be written: {error.strerror}") from None


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
