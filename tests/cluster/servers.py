"""Programs of the cluster: each ends with this process, however that ends, and keeps a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
from support.patience import wait_until

from rft_cli.processes import Program

LOG_LINES = 30
# All servers are on this machine; a proxy of the user's does not know them.
_WITHOUT_PROXY = ["env", *(f"--unset={name}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"))]


class ServerFailed(Exception):
    """A server ended by itself; the message has the end of its log."""


class Server:
    """A program that can be started again after it was stopped or killed."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None):
        self.name = name
        self._command = [*_WITHOUT_PROXY, *command]
        self._environment = environment or {}
        self.log = folder / f"{name}.log"
        self._program: Program | None = None

    def start(self) -> None:
        """Starts it; does not wait until it is ready."""
        self._program = Program(self._command, self.log, self._environment)

    def stop(self) -> None:
        """Ends it, gently first."""
        if self._program:
            self._program.stop()

    def kill(self) -> None:
        """Ends it and its children at once."""
        if self._program:
            self._program.kill()

    def check(self) -> None:
        """Raises ServerFailed when it is not running."""
        assert self._program, f"{self.name} was not started"
        code = self._program.exit_code()
        if code is not None:
            raise ServerFailed(f"{self.name} ended with code {code}:\n{self._last_lines()}")

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready.

        Raises:
            ServerFailed: it ended.
            AssertionError: it does not become ready.
        """

        def is_ready() -> bool:
            if ready():
                return True
            self.check()
            return False

        wait_until(is_ready, explain=lambda: f"{self.name} is not ready:\n{self._last_lines()}")

    def wait_for_answer(self, url: str) -> None:
        """Wait until its address answers with 200.

        Raises:
            ServerFailed, AssertionError: as `wait`.
        """

        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url, trust_env=False).status_code == httpx.codes.OK
            return False

        self.wait(ready)

    def _last_lines(self) -> str:
        assert self._program, f"{self.name} was not started"
        return self._program.last_lines(LOG_LINES)
