"""Clients that cost a server as much as they can: kin of one attack, which is to send without end or never to go on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from support.patience import PATIENCE_SECONDS

CLIENTS = 3
"""Number of clients that flood a server at the same time."""


def floods(page: str, target: str) -> dict[str, tuple[bytes, bytes]]:
    """Return what clients send to a server, by a name: the beginning, and what follows it without end.

    Args:
        page: a path that answers to GET.
        target: the path of a POST, which need not be allowed.
    """
    start = f"GET {page} HTTP/1.1\r\nhost: x\r\n".encode()
    post = f"POST {target} HTTP/1.1\r\nhost: x\r\n".encode()
    chunked = post + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n"
    return {
        "small headers": (start, b"a: b\r\n"),
        "headers with nothing": (start, b"a:\r\n"),
        "one header": (start + b"a: ", b"b"),
        "one name of a header": (start, b"a"),
        "the path": (b"GET /", b"a"),
        "the method": (b"", b"A"),
        "empty lines": (b"", b"\r\n"),
        "zeros": (b"", b"\0"),
        "trailers": (chunked + b"0\r\n", b"a: b\r\n"),
        "one trailer": (chunked + b"0\r\na: ", b"b"),
        "what follows the size of a chunk": (chunked + b"1;", b"a"),
        "chunks of one byte": (chunked, b"1\r\nx\r\n"),
        "chunks of one byte where no body belongs": (start + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "a body without a token": (post + b"content-length: 99999999999\r\n\r\n", b"a"),
        "a body where none belongs": (start + b"content-length: 99999999999\r\n\r\n", b"a"),
        "many requests in a packet": (b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        "requests whose answers nobody reads": (b"", (start + b"\r\n") * 8),
        "upgrades": (b"", start + upgrade),
        "an upgrade, and frames": (start + upgrade, b"\x81\x7f"),
        "requests of HTTP/0.9": (b"", f"GET {page}\r\n".encode()),
        "the preface of HTTP/2": (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "an encrypted connection": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03"),
    }


def connected(port: int, message: bytes = b"") -> socket.socket:
    """Connect to a port of this machine, and send a message."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    client.sendall(message)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until the server ends the connection, which it may do without waiting for the rest of what it refuses."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def flooding(port: int, first: bytes, more: bytes) -> Iterator[list[int]]:
    """Send to a port as much as it takes, from several clients; they begin anew when the server ends a connection.

    Yields the numbers of bytes that were sent so far, piece by piece.
    """
    stop, sent, piece = threading.Event(), [], more * (65536 // len(more))

    def send() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connected(port, first) as client:
                client.settimeout(0.2)
                while not stop.is_set():
                    client.sendall(piece)
                    sent.append(len(piece))
            sent.append(len(first))

    clients = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield sent
    finally:
        stop.set()
        for client in clients:
            client.join()
