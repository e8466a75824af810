"""A Hugging Face hub on this machine, as far as reading models needs it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

REVISION = "0123456789abcdef0123456789abcdef01234567"


def ask_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process ask that hub."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class Hub:
    """Serves the models, or datasets, `OWNER/NAME` of a folder, all at one commit until `move` makes another.

    Attributes:
        requests: the paths that were asked for, each after its method.
        failures: how many of the next requests are answered with 503.
        gated: models that are refused.
        refusals: models that are refused with an HTTP status and a message.
        cut: how many of the next answers with a file's content end after half of it.
    """

    def __init__(self, folder: Path):
        self.requests: list[str] = []
        self.failures = 0
        self.gated: set[str] = set()
        self.refusals: dict[str, tuple[int, str]] = {}
        self.cut = 0
        self._commits = {REVISION: folder}
        self._main = REVISION
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                outer.requests.append(f"{self.command} {path}")
                if outer.failures:
                    outer.failures -= 1
                    return self._answer(503, b"busy")
                is_description = path.startswith("/api/")
                path = re.sub("^(/api/models|/api/datasets|/datasets)", "", path)
                parts = path.strip("/").split("/")
                name = "/".join(parts[:2])
                if name in outer.refusals:
                    status, message = outer.refusals[name]
                    return self._answer(status, b"", {"X-Error-Message": message})
                if name in outer.gated:
                    return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
                revision = parts[3] if len(parts) > 3 else "main"
                commit = outer._main if revision == "main" else revision
                if not (folder / name).is_dir():
                    return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
                if commit not in outer._commits:
                    return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                model = outer._commits[commit] / name
                if is_description:
                    return self._answer(200, outer._describe(model, name, commit))
                return self._file(model / "/".join(parts[4:]), commit)

            def _file(self, path: Path, commit: str) -> None:
                if not path.is_file():
                    return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                content = path.read_bytes()
                self._answer(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit})

            def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if outer.cut and "ETag" in (headers or {}):
                    outer.cut -= 1
                    body = body[: len(body) // 2]
                    self.close_connection = True
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def move(self, commit: str, folder: Path) -> None:
        """Makes another commit, of the models in another folder, and moves the main branch to it."""
        self._commits[commit] = folder
        self._main = commit

    def _describe(self, folder: Path, name: str, commit: str) -> bytes:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [
            {
                "rfilename": str(path.relative_to(folder)),
                "size": path.stat().st_size,
                "blobId": _digest(path.read_bytes()),
            }
            for path in files
        ]
        return json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode()

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
