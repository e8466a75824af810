"""The gateway as a process, with its files, for tests of what it answers and records."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from rft_api.conversation_logs import ConversationLogs
from rft_api.files import atomic_write
from rft_api.gateway_key import Key, Limits, make_token, secret_document, token_digest
from rft_api.gateway_routes import Route, RouteList
from rft_api.ports import free_port
from rft_api.price import Price
from rft_api.readiness import find_address
from support.patience import PATIENCE_SECONDS, wait_until

NAMESPACE = "team"


def ledger_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a ledger in SQLite, in the order of arrival."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM ledger_entries ORDER BY id")]
    finally:
        connection.close()


class Gateway:
    """A gateway; a context manager that waits until it listens, and ends it.

    Args:
        folder: for its files.
        routes: the models; `route` makes one.
        arguments: further ones of its command line.
        environment: variables beside those of this process.
    """

    def __init__(
        self, folder: Path, routes: Sequence[Route], *arguments: str, environment: Mapping[str, str] | None = None
    ):
        self.folder = folder
        self.ledger_file = folder / "ledger.db"
        (folder / "keys").mkdir(parents=True, exist_ok=True)
        self.set_routes(routes)
        self.token = self.add_key("key")
        self._prepare("--routes", str(folder / "routes.json"), "--keys", str(folder / "keys"), *arguments)
        self.environment |= environment or {}

    def _prepare(self, *arguments: str) -> None:
        operation_port = free_port()
        self.operation_url = f"http://127.0.0.1:{operation_port}"
        self.environment = {**os.environ, "RFT_GATEWAY_LEDGER": str(self.ledger_file)}
        self._command = [
            sys.executable, "-m", "rft_gateway", "--port", "0", "--operation-port", str(operation_port), *arguments,
        ]  # fmt: skip

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, also again."""
        self._output = self.folder / "gateway.out"
        with self._output.open("wb") as output, (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=log, env=self.environment)

        def address() -> str | None:
            assert self.process.poll() is None, self.log
            return find_address(self._output.read_text())

        self.url = wait_until(address, lambda: self.log) or ""

    def run(self) -> tuple[int, str]:
        """Runs it until it ends by itself; returns its exit code, and what it has logged."""
        result = subprocess.run(
            self._command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=self.environment
        )
        return result.returncode, result.stderr

    def stop(self) -> int:
        """Ends it with SIGTERM, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def exchange(self, data: bytes) -> bytes:
        """Sends bytes that may be no request, and returns the beginning of the answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return connection.recv(1 << 16)

    def connect(self) -> socket.socket:
        """Connects to it."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), PATIENCE_SECONDS)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "gateway.log").read_text(errors="replace")

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Writes the models that it answers for."""
        document = RouteList(routes=list(routes)).model_dump_json(by_alias=True)
        atomic_write(self.folder / "routes.json", document)

    def add_key(
        self, name: str, models: tuple[str, ...] = (), namespace: str = NAMESPACE, limits: Limits | None = None
    ) -> str:
        """Writes a key, and returns its token."""
        token = make_token()
        key = Key(name, namespace, token_digest(token), models, None, limits or Limits())
        text = yaml.safe_dump(secret_document(key))
        atomic_write(self.folder / "keys" / f"{namespace}-{name}.yaml", text)
        return token

    def add_new_key(self, name: str, **more: Any) -> str:
        """Writes a key while the gateway runs, waits until it opens something, and returns its token."""
        token = self.add_key(name, **more)

        def opens() -> bool:
            with self.client(token) as client:
                return client.get("/v1/models").is_success

        wait_until(opens)
        return token

    def client(self, token: str | None = None) -> httpx.Client:
        """Returns a client with the key's token, or another one."""
        headers = {"authorization": f"Bearer {self.token if token is None else token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)

    def post(self, path: str, document: object, token: str | None = None) -> httpx.Response:
        """Sends a request, and returns its whole answer."""
        with self.client(token) as client:
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            return client.post(path, content=content, headers={"content-type": "application/json"})

    def metrics(self) -> dict[str, float]:
        """Returns the values of its metrics, by name and labels."""
        text = httpx.get(f"{self.operation_url}/metrics", timeout=PATIENCE_SECONDS, trust_env=False).text
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def entries(self) -> list[dict[str, Any]]:
        """Returns the rows of the ledger, in the order of arrival."""
        return ledger_rows(self.ledger_file)

    def wait_for_entries(self, count: int) -> list[dict[str, Any]]:
        """Waits until the ledger has so many rows, and returns them."""

        def enough() -> list[dict[str, Any]]:
            entries = self.entries()
            return entries if len(entries) >= count else []

        return wait_until(enough, lambda: (len(self.entries()), self.log))


def route(
    model: str,
    *servers: str,
    base: str | None = None,
    served_model: str | None = None,
    logs: ConversationLogs | None = None,
    namespace: str = NAMESPACE,
    price: Price | None = None,
) -> Route:
    """Returns a route, by default of the tests' namespace."""
    return Route(
        namespace=namespace,
        model=model,
        base=base or model,
        served_model=served_model or model,
        servers=list(servers),
        logs=logs,
        price=price,
    )
