"""What a server says to the loader is read to a limit of bytes and time, and shown in one line."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.patience import PATIENCE_SECONDS
from support.raw_server import drip, drip_headers, endless, raw_server

from rft_loader import server
from rft_loader.server import Server, ServerAway, ServerRefused

MEBIBYTE = 1 << 20


@contextmanager
def answering(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    with raw_server(serve) as url:
        yield Server(url)


def says(body: bytes, status: str = "200 OK") -> Callable[[socket.socket], None]:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    return lambda connection: connection.sendall(head + body)


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (drip, "it does not answer within 0.5 s"),
        (drip_headers, "it does not answer within 0.5 s"),
        (says(b"{}"), "cannot be read: KeyError"),
        (says(b'{"data": 5}'), "cannot be read: TypeError"),
        (says(b'{"data": [5]}'), "cannot be read: AttributeError"),
        (says(b'{"data": [{"parent": "b"}]}'), "cannot be read: KeyError"),
        (says(b"[" * 100_000), "cannot be read: ValueError: is not JSON: it is nested too deeply"),
        (says(b"9" * 5000), "cannot be read: NotCarried"),
        (says(b"", "302 Found\r\nlocation: http://169.254.169.254/"), "it answers HTTP 302"),
        (says(b"", "503 No"), "it answers HTTP 503"),
        (says(b"x" * 100, "200 OK\r\ncontent-encoding: gzip"), "it sends a compressed answer"),
        (lambda connection: connection.sendall(b"SSH-2.0\r\n"), "it cannot be asked"),
    ],
)
def test_lists_that_are_none(monkeypatch, serve, words):
    # Only what never ends meets the deadline; the others are refused however long that takes here.
    monkeypatch.setattr(server, "LIST_SECONDS", 0.5 if serve in (drip, drip_headers) else PATIENCE_SECONDS)
    with answering(serve) as asked, pytest.raises(ServerAway, match=words):
        asked.adapters()


def test_an_endless_list_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr(server, "LIST_SECONDS", PATIENCE_SECONDS)
    with answering(endless) as asked:
        tracemalloc.start()
        try:
            with pytest.raises(ServerAway, match="it answers with more than 8 MiB"):
                asked.adapters()
            assert tracemalloc.get_traced_memory()[1] < 32 * MEBIBYTE
        finally:
            tracemalloc.stop()


def test_a_list(monkeypatch):
    monkeypatch.setattr(server, "LIST_SECONDS", PATIENCE_SECONDS)
    body = b'{"data": [{"id": "base", "root": "/m", "parent": null}, {"id": "a", "root": "/a", "parent": "base"}]}'
    with answering(says(body)) as asked:
        assert asked.adapters() == {"a": "/a"}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"error": {"message": "x\\n2026-01-01 ERROR forged\\u001b[2J"}}', r": x 2026-01-01 ERROR forged\x1b[2J"),
        (b"\x1b[2J\n" + b"y" * 5_000_000, "more characters)"),
        (b"[" * 100_000, "more characters)"),
    ],
)
def test_refusals_are_one_line(body, shown):
    with answering(says(body, "400 Bad Request")) as asked, pytest.raises(ServerRefused) as raised:
        asked.load("a", "/a", None)
    assert str(raised.value).endswith(shown)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1200


def test_a_server_that_drips_while_it_loads(monkeypatch):
    monkeypatch.setattr(server, "LOAD_SECONDS", 0.5)
    with answering(drip) as asked, pytest.raises(ServerRefused, match="has not answered"):
        asked.load("a", "/a", None)


def test_unloading_what_is_not_loaded():
    with answering(says(b"", "404 Not Found")) as asked:
        asked.unload("a")
