"""Real reward servers for the tests of other parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from rft_api.readiness import find_address
from support.patience import PATIENCE_SECONDS, wait_until

TOKEN = "secret-of-the-tests"


class RewardServer:
    """A running `python -m rft_reward` that is ready."""

    def __init__(self, folder: Path, spec: dict[str, Any], port: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN, encoding="utf-8")
        self.token_file.chmod(0o600)
        self._function = folder / "function.json"
        self._function.write_text(
            json.dumps(
                {"apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "r"}, "spec": spec}
            ),
            encoding="utf-8",
        )
        self._log = folder / "log"
        self.start(port)

    def start(self, port: int = 0) -> None:
        """Starts the program and waits until it is ready."""
        command = [sys.executable, "-m", "rft_reward", "--function", str(self._function), "--port", str(port)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--token-file", str(self.token_file)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        url = find_address(line)
        assert url is not None, self._log.read_text(encoding="utf-8")
        self.url = url
        try:
            wait_until(
                lambda: self._ask_whether_ready().status_code == httpx.codes.OK,
                explain=lambda: f"{self._ask_whether_ready().text}{self._log.read_text(encoding='utf-8')}",
            )
        except BaseException:
            self.stop()
            raise

    def _ask_whether_ready(self) -> httpx.Response:
        return httpx.get(self.url + "/readyz", trust_env=False, timeout=PATIENCE_SECONDS)

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the program."""
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)
