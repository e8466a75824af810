"""The programs that a run consists of, as child processes that never outlive this one."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import httpx
import yaml

from rft_api.exit_codes import ExitCode, RunError
from rft_api.readiness import READINESS_PATH, Readiness, find_address
from rft_api.remote_graders import reads_credential
from rft_api.reward_function import RewardFunction
from rft_cli import keeper
from rft_cli.texts import harmless

RESTARTS = 3
"""Times that a reward server is started again after it died."""
LOG_LINES = 20
"""Lines of a program's log that are shown when it failed without a message of its own."""
POLL_SECONDS = 0.1
_INHERITED = {
    "ALL_PROXY", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "NO_PROXY",
    "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "USER",
}  # fmt: skip
"""Variables that every reward server gets."""
STOP_SECONDS = 10.0
"""Time that a program has to end after SIGTERM."""


class Program:
    """A running program with its output appended to a log file.

    Args:
        command: program and arguments.
        log: file that gets its standard output and error.
        environment: its environment.
    """

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]):
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            # -S -E: nothing of the environment is needed to keep a process, and it starts faster.
            self._keeper = subprocess.Popen(
                [sys.executable, "-S", "-E", keeper.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for us to pass on
                env={**environment, "PYTHONUNBUFFERED": "1"},
            )

    def exit_code(self) -> int | None:
        """The exit code (128 + N after signal N), or None while it runs."""
        return self._keeper.poll()

    def output(self) -> str:
        """What this start of the program has written so far."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def last_lines(self, count: int) -> str:
        """The last lines that it wrote."""
        return "\n".join(self.output().splitlines()[-count:])

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""
        if self.exit_code() is None:
            self._keeper.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and all that it started, at once."""
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.wait()

    def stop(self) -> None:
        """Asks it to end, and ends it when it does not."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(STOP_SECONDS)
        self.kill()


def reward_environment(function: RewardFunction, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a function's reward server: what programs need to run, and the credentials that it names."""
    return {
        "OMP_NUM_THREADS": "1",
        **{
            name: value
            for name, value in environment.items()
            if name.upper() in _INHERITED or name.startswith("LC_") or reads_credential(function.spec, name)
        },
    }


class RewardServer:
    """The reward server of one RewardFunction.

    Args:
        function: the function, its code inline.
        private: folder that only we can read, for the token.
        log: file that gets the server's output.
    """

    def __init__(self, function: RewardFunction, private: Path, log: Path):
        self.name = function.metadata.name
        self.url = ""
        self.token_file = private / f"{self.name}.token"
        self._function_file = private / f"{self.name}.yaml"
        self._log = log
        self._environment = reward_environment(function, os.environ)
        self._restarts_left = RESTARTS
        _write_private(self.token_file, secrets.token_urlsafe(32))
        document = function.to_json_object()
        _write_private(self._function_file, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        self._program = self._start(port=0)

    @property
    def token(self) -> str:
        """The bearer token of its API."""
        return self.token_file.read_text(encoding="ascii")

    def _start(self, port: int) -> Program:
        command = [sys.executable, "-m", "rft_reward", "--function", str(self._function_file)]
        command += ["--port", str(port), "--token-file", str(self.token_file)]
        return Program(command, self._log, self._environment)

    def wait_until_ready(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits until the function's own tests have passed; returns early when `cancelled` says so.

        Raises:
            RunError: REWARD_FAILING when the tests fail or the server ends.
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
        said = harmless(self._program.last_lines(LOG_LINES))
        if code == ExitCode.CONFIGURATION_INVALID:
            raise RunError(ExitCode.CONFIGURATION_INVALID, f"RewardFunction {self.name}: {said}")
        raise RunError(ExitCode.REWARD_FAILING, f"the reward server of {self.name} ended with code {code}:\n{said}")

    def keep_alive(self) -> bool:
        """Starts the server again, on its port, when it has died. Returns whether it did.

        Raises:
            RunError: REWARD_FAILING when it has died too often.
        """
        if self._program.exit_code() is None:
            return False
        if self._restarts_left == 0:
            self._fail_if_ended()
        self._restarts_left -= 1
        self._program = self._start(port=int(self.url.rsplit(":", 1)[1]))
        return True

    def stop(self) -> None:
        """Ends the server."""
        self._program.stop()

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def ask_readiness(function: str, url: str) -> bool:
    """Whether the reward server of a function is ready; not yet, when it does not answer or its workers are starting.

    Raises:
        RunError: REWARD_FAILING when its code cannot be loaded or its tests fail.
    """
    try:
        answer = httpx.get(f"{url}{READINESS_PATH}", timeout=10, trust_env=False)
    except httpx.TransportError:
        return False
    readiness = Readiness.model_validate_json(answer.text)
    if not readiness.failures:
        return readiness.ready
    reasons = "\n".join(f"  {harmless(line)}" for line in readiness.message.splitlines())
    raise RunError(ExitCode.REWARD_FAILING, f"RewardFunction {function} is not ready:\n{reasons}")


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
