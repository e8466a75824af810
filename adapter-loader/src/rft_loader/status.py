"""Serves the loader's report of its adapters over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from rft_api.adapter_protocol import ADAPTERS_PATH, AdapterReports
from rft_api.foreign.small_server import Page, SmallServer

Reports = Callable[[], AdapterReports]


def serve_status(host: str, port: int, reports: Reports) -> SmallServer:
    """Answer `GET /adapters` and `GET /healthz` in the background.

    Raises:
        OSError: when the port cannot be opened.
    """
    pages = {
        ADAPTERS_PATH: Page("application/json", lambda: reports().model_dump_json(by_alias=True).encode()),
        "/healthz": Page("text/plain", lambda: b"ok\n"),
    }
    return SmallServer(host, port, pages)
