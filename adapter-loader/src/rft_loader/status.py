"""Serves the loader's report of its adapters over HTTP."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rft_api.adapter_protocol import ADAPTERS_PATH, AdapterReports

Reports = Callable[[], AdapterReports]


class _StatusServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, reports: Reports):
        self.reports = reports
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of clients that did not wait for the answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _StatusServer
    timeout = 10

    def do_GET(self) -> None:
        """Answer a request for /adapters or /healthz."""
        if self.path == ADAPTERS_PATH:
            self._answer(200, "application/json", self.server.reports().model_dump_json(by_alias=True))
        elif self.path == "/healthz":
            self._answer(200, "text/plain", "ok\n")
        else:
            self._answer(404, "text/plain", "there are /adapters and /healthz\n")

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a line for every request would hide the others."""


def serve_status(host: str, port: int, reports: Reports) -> int:
    """Answer `GET /adapters` and `GET /healthz` in the background; return the port."""
    server = _StatusServer(host, port, reports)
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()
    return int(server.server_address[1])
