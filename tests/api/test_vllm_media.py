"""vLLM, started as we start it, fetches media from no address that a client names, unless the endpoint says so."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.patience import PATIENCE_SECONDS

from rft_api import vllm_server

IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
DATA_URL = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
LOADER = """
import asyncio, json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.media.connector import MediaConnector
from vllm.utils.argparse_utils import FlexibleArgumentParser

arguments, urls = json.loads(sys.argv[1])
options = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(arguments)
connector = MediaConnector(
    allowed_local_media_path=options.allowed_local_media_path, allowed_media_domains=options.allowed_media_domains
)

async def load(url):
    try:
        await connector.fetch_image_async(url)
    except Exception as error:
        return str(error)
    return "loaded"

async def main():
    print(json.dumps([await load(url) for url in urls]))

asyncio.run(main())
"""
"""Loads images as vLLM does for requests, with the options of its command line."""


class MediaServer(ThreadingHTTPServer):
    """A server with an image, and with redirects to it under another name of the same host."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", 0), MediaHandler)


class MediaHandler(BaseHTTPRequestHandler):
    server: MediaServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("location", f"http://localhost:{self.server.server_port}/image.png")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-length", str(len(IMAGE)))
        self.end_headers()
        self.wfile.write(IMAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def media() -> Iterator[MediaServer]:
    with MediaServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def load(domains: list[str], *urls: str) -> list[str]:
    """What becomes of each URL at a server that may fetch from these domains."""
    arguments = ["--model", "none", *vllm_server.media_arguments(domains), "--enable-prefix-caching"]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps([arguments, urls])],
        capture_output=True,
        text=True,
        env={**os.environ, **vllm_server.ENVIRONMENT, "VLLM_IMAGE_FETCH_TIMEOUT": str(int(PATIENCE_SECONDS))},
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_only_data_urls_are_loaded(media: MediaServer):
    host = f"127.0.0.1:{media.server_port}"
    urls = (f"http://{host}/image.png", f"HTTP://{host}/image.png", f"http://user@{host}/image.png")
    data, file, nowhere, *refusals = load([], DATA_URL, "file:///etc/hostname", "http:///image.png", *urls)
    assert data == "loaded"
    assert "--allowed-local-media-path" in file
    for refusal in (nowhere, *refusals):
        assert "none: send media as data: URLs" in refusal
    assert media.paths == []


def test_an_endpoint_names_the_domains_that_media_come_from(media: MediaServer):
    port = media.server_port
    urls = [f"http://{host}:{port}/{path}" for host in ("127.0.0.1", "localhost") for path in ("image.png", "redirect")]
    own, redirect, *others = load(["127.0.0.1", "images.example.com"], *urls)
    assert own == "loaded"
    assert redirect != "loaded"
    assert all("must be from one of the allowed domains" in other for other in others)
    assert media.paths == ["/image.png", "/redirect"]
