"""tools/audit.sh: what has become of the pinned packages since they were pinned."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import pins

VULNERABILITY = {
    "id": "PYSEC-2026-1",
    "summary": "Anyone can do anything",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "attrs"}, "versions": ["21.1.0", "21.2.0"]}],
}
PROJECT = """
[project]
name = "some"
version = "1"
requires-python = ">=3.11"
dependencies = ["attrs=={version}"]
"""


@contextmanager
def vulnerabilities(names: set[str]) -> Iterator[str]:
    """Stand-in of osv.dev that knows one vulnerability of the packages named; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            listed = {"vulns": [{"id": VULNERABILITY["id"], "modified": VULNERABILITY["modified"]}]}
            self.answer({"results": [listed if query["package"]["name"] in names else {} for query in queries]})

        def do_GET(self) -> None:
            self.answer(VULNERABILITY)

        def answer(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def audit(folder: Path, version: str, url: str) -> subprocess.CompletedProcess[str]:
    """Audit a project that depends on a version of attrs; 21.1.0 has been withdrawn by its authors."""
    uv = os.environ.get("UV") or str(next((pins.ROOT / ".cache").glob("uv-*/bin/uv")))
    (folder / "pyproject.toml").write_text(PROJECT.replace("{version}", version), encoding="utf-8")
    (folder / "trainer-image").mkdir()
    (folder / "trainer-image" / "requirements-cuda.txt").write_text("attrs==25.4.0\n", encoding="utf-8")
    subprocess.run([uv, "lock", "--quiet"], cwd=folder, check=True)
    return subprocess.run(
        [pins.ROOT / "tools" / "audit.sh", uv],
        cwd=folder, env={**os.environ, "OSV_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_nothing_to_do(tmp_path):
    with vulnerabilities(set()) as url:
        done = audit(tmp_path, "25.4.0", url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("No package has been withdrawn, and no vulnerability is known.\n")


def test_a_withdrawn_package_is_named_with_its_reason(tmp_path):
    with vulnerabilities(set()) as url:
        done = audit(tmp_path, "21.1.0", url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert '  `attrs==21.1.0` is yanked (reason: "Installable but not importable on Python 3.4.")' in done.stdout


def test_a_vulnerable_package_is_named(tmp_path):
    with vulnerabilities({"attrs"}) as url:
        done = audit(tmp_path, "21.2.0", url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PYSEC-2026-1" in done.stdout
    assert "attrs" in done.stdout


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/"])
def test_a_service_that_cannot_be_asked_is_no_good_news(tmp_path, url):
    done = audit(tmp_path, "25.4.0", url)
    assert done.returncode == 2
    assert done.stdout.endswith("Not everything could be found out; the messages above say why.\n")
