"""A server of a few pages over HTTP, for progress and metrics: whoever connects costs a bounded amount, and no thread.

Python's http.server gives each connection a thread, limits the time of each read but not of a request, and has no limit
of connections. Here one thread serves all of them, a connection has one request without a body, and everything has a
limit of `server_limits`.
"""

from __future__ import annotations

import logging
import re
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rft_api.foreign import server_limits as limits

_CHUNK = 64 << 10
_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before the requests of others are looked at. A request that came with its connection
is therefore answered, however many others connect."""
_FIRST_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,1000}) HTTP/1\.[01]\r\n")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error",
            431: "Request Header Fields Too Large"}  # fmt: skip

log = logging.getLogger(__name__)


@dataclass
class Page:
    """What a path answers to GET."""

    content_type: str
    """Its value of the header Content-Type."""
    make: Callable[[], bytes]
    """Returns the body; called in the server's thread."""
    _answer: bytes = b""
    _fresh_until: float = -1e9

    def answer(self) -> bytes:
        """Return the whole answer; one that is newer than its cost allows is returned again."""
        if time.monotonic() >= self._fresh_until:
            start = time.thread_time()
            self._answer = _answer(200, self.make(), self.content_type)
            cost = time.thread_time() - start
            self._fresh_until = time.monotonic() + max(limits.SMALL_FRESH_SECONDS, limits.SMALL_FRESH_RATIO * cost)
        return self._answer


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    client: str
    deadline: float
    head: bytearray = field(default_factory=bytearray)
    rest: memoryview | None = None
    """What is still to be sent of the answer; None while there is none."""
    dropped: int = 0
    """Bytes that came after the answer had been sent."""


class SmallServer:
    """Serves pages in a thread of its own, until it is stopped. Requests are not logged, nor are faults of clients.

    Args:
        host: the address to listen at.
        port: the port; 0 takes a free one.
        pages: the pages by their paths, such as /metrics.

    Raises:
        OSError: when the port cannot be opened.
    """

    def __init__(self, host: str, port: int, pages: Mapping[str, Page]):
        self._pages = pages
        self._listener = socket.create_server((host, port), backlog=limits.BACKLOG)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        """The port that it listens at."""
        self._waker, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._thread = threading.Thread(target=self._serve, name=f"port {self.port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections."""
        self._waker.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            oldest = next(iter(self._connections), None)
            ready = self._selector.select(None if oldest is None else max(0.0, oldest.deadline - time.monotonic()))
            keys = {key.fileobj: key.data for key, _ in ready}
            if self._wake in keys:
                break
            for connection in keys.values():
                if connection is not None:
                    self._go_on(connection)
            now = time.monotonic()
            for connection in [each for each in self._connections if each.deadline <= now]:
                self._close(connection)
            if self._listener in keys:
                self._accept()
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        self._listener.close()
        self._wake.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no file descriptor is free
                time.sleep(0.1)
                return
            accepted.setblocking(False)
            if len(self._connections) >= limits.SMALL_CONNECTIONS:
                self._close(self._superfluous())
            connection = _Connection(accepted, address[0], time.monotonic() + limits.SMALL_SECONDS)
            self._connections[connection] = None
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _superfluous(self) -> _Connection:
        """Return the oldest connection of the client that has most of them."""
        (client, _), *_ = Counter(connection.client for connection in self._connections).most_common(1)
        return next(connection for connection in self._connections if connection.client == client)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _go_on(self, connection: _Connection) -> None:
        try:
            if connection.rest is None:
                self._receive(connection)
            elif connection.rest:
                self._send(connection)
            else:
                self._drop(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _receive(self, connection: _Connection) -> None:
        head, size = connection.head, len(connection.head)
        piece = connection.socket.recv(_CHUNK)
        if not piece:
            self._close(connection)
            return
        head += piece[: limits.HEAD_BYTES + 1 - size]
        is_whole = head.find(b"\r\n\r\n", max(0, size - 3)) >= 0
        answer = self._refusal(head, is_whole)
        if answer is None and not is_whole:
            return
        connection.rest = memoryview(self._page(head) if answer is None else answer)
        connection.head = bytearray()
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        assert connection.rest is not None  # there is an answer
        connection.rest = connection.rest[connection.socket.send(connection.rest) :]
        if not connection.rest:
            connection.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        # If a connection is closed before all that has come is read, its client might never see the answer.
        piece = connection.socket.recv(_CHUNK)
        connection.dropped += len(piece)
        if not piece or connection.dropped > limits.HEAD_BYTES:
            self._close(connection)

    def _refusal(self, head: bytearray, is_whole: bool) -> bytes | None:
        """Return the answer to a head that cannot become a request for a page; None when it can, or is one."""
        line = head[: head.find(b"\n") + 1 or len(head)]
        match = _FIRST_LINE.fullmatch(line)
        if match is None and (line.endswith(b"\n") or len(line) > 1100 or not b"A" <= line[:1] <= b"Z"):
            return _answer(400, b"this is no request of HTTP/1.1\n")
        if not is_whole and len(head) > limits.HEAD_BYTES:
            return _answer(431, b"the headers are too large\n")
        if match is not None and match[1] != b"GET":
            return _answer(405, b"there is only GET\n", more="Allow: GET\r\n")
        if match is not None and _path(match) not in self._pages:
            return _answer(404, f"there are {', '.join(self._pages)}\n".encode())
        return None

    def _page(self, head: bytearray) -> bytes:
        match = _FIRST_LINE.match(head)
        assert match is not None  # `_refusal` has seen it
        try:
            return self._pages[_path(match)].answer()
        except Exception:
            log.exception("%s cannot be made", _path(match))
            return _answer(500, b"the page cannot be made\n")


def _path(match: re.Match[bytes]) -> str:
    return match[2].partition(b"?")[0].decode("ascii")


def _answer(status: int, body: bytes, content_type: str = "text/plain; charset=utf-8", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}"
        f"Connection: close\r\n\r\n"
    )
    return head.encode() + body
