"""A package index of this machine, also for pods: wheels of a folder, and packages that it forwards from PyPI."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import httpx

from support.patience import PATIENCE_SECONDS


class PackageIndex:
    """Serves the pages and files of a "simple" index (PEP 503).

    Args:
        wheels: folder of the wheels that the index has itself; wheels may be added at any time.
        forwarded: normalized names of the packages that it forwards from PyPI, or from the index in UV_DEFAULT_INDEX.
            Pods of tests reach this machine only.

    Attributes:
        wheels: as above.
        port: port on every address of this machine.
        downloads: names of the files that were asked for, one entry per request.
    """

    def __init__(self, wheels: Path, forwarded: Sequence[str] = ()):
        self.wheels = wheels
        self.downloads: list[str] = []
        self._forwarded = frozenset(forwarded)
        self._upstream = os.environ.get("UV_DEFAULT_INDEX", "https://pypi.org/simple").rstrip("/")
        # Certificates of this machine, as the package installers use them.
        self._client = httpx.Client(
            verify=ssl.create_default_context(), follow_redirects=True, timeout=PATIENCE_SECONDS
        )
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)  # uv then reads a file as far as it needs

            def do_GET(self) -> None:
                status, content_type, body = index._respond(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has read enough
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, host: str = "127.0.0.1") -> str:
        """The URL of the index under an address of this machine."""
        return f"http://{host}:{self.port}/simple"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def _respond(self, path: str) -> tuple[int, str, bytes]:
        folder, _, rest = path.strip("/").partition("/")
        if folder == "simple" and (page := self._page(rest)) is not None:
            return HTTPStatus.OK, "text/html", page.encode()
        if folder == "wheels" and (self.wheels / rest).is_file():
            self.downloads.append(rest)
            return HTTPStatus.OK, "application/octet-stream", (self.wheels / rest).read_bytes()
        if folder == "forwarded":
            response = self._client.get(f"https://{rest}")
            if not rest.endswith(".metadata"):
                self.downloads.append(rest.rpartition("/")[2])
            return response.status_code, "application/octet-stream", response.content
        return HTTPStatus.NOT_FOUND, "text/plain", b"not here"

    def _page(self, name: str) -> str | None:
        """The page of a package; None if the index does not have it."""
        files = [wheel.name for wheel in self.wheels.glob("*.whl") if _normalized(wheel.name.split("-")[0]) == name]
        if files:
            return "".join(f'<a href="/wheels/{file}">{file}</a>\n' for file in sorted(files))
        if name not in self._forwarded:
            return None
        response = self._client.get(f"{self._upstream}/{name}/", headers={"Accept": "text/html"})
        response.raise_for_status()

        def forward(link: re.Match[str]) -> str:
            return f'href="/forwarded/{urljoin(str(response.url), link[1]).partition("://")[2]}"'

        return re.sub('href="([^"]+)"', forward, response.text)


def _normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()
