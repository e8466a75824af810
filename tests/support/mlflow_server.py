"""A tracking server of MLflow, with a database and a folder for its artifacts, that can go away and come back."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rft_api.ports import free_port
from support.patience import PATIENCE_SECONDS, wait_until

# Without the second one, it starts eight more processes, for what runs do not use.
_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class TrackingServer:
    """The server; `start` and `stop` can be repeated, and its data stays."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        folder = self._folder
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **_SETTINGS},
            )  # fmt: skip
        wait_until(self._answers, explain=lambda: (folder / "server.log").read_text()[-2000:])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=PATIENCE_SECONDS) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 15)
            self._process.wait()
            self._process = None


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    server = TrackingServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
