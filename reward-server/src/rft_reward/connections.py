"""Bounds what a client costs before its request is admitted: connections with limits of bytes, number and time.

uvicorn limits neither the headers that httptools parses nor the time for them, and its `limit_concurrency` answers 503
to everybody as soon as somebody holds so many connections. So this extends its protocol where uvicorn provides for it,
`uvicorn.Config(http=...)`. (Its other parser, h11, limits headers, but takes five times as long for each request.)
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from rft_api.foreign import server_limits

_TOO_LARGE = (
    f"a part of the request has more than {server_limits.HEAD_BYTES >> 10} KiB or {server_limits.HEAD_FIELDS} headers\n"
).encode()
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)


class _Exceeded(Exception):
    """A request exceeds a limit. The parser ends with an error of its own when one of its callbacks raises this."""


class _State(ServerState):
    """The connections of a server."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        """Connections that nobody is working for, by the address of the client, in the order in which they wait."""

    def close_longest_waiting(self) -> bool:
        """Close the connection that waits longest, of the client that has most; return False when none waits."""
        waiting = max(self.waiting.values(), key=len, default=None)
        if not waiting:
            return False
        next(iter(waiting)).end()
        return True


class Connection(HttpToolsProtocol):
    """A connection of a client, with a deadline for what the client has to do next."""

    server_state: _State

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.deadline = math.inf
        """When the connection is ended unless the client goes on before, as a time of `time.monotonic`."""
        self.reading_deadline = math.inf
        """The same for a client that does not read."""
        self._address = ""
        self._in_head = self._in_body = False
        self._exceeded = False
        self._fields = self._head_bytes = self._chunks = self._body_bytes = self._dropped = 0
        self._unparsed = 0
        """Bytes that came since the parser found something: it holds them until it has seen the end of a header."""

    def connection_made(self, transport: Any) -> None:
        """Admit the connection, if need be in the place of one that waits."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if len(self.connections) > server_limits.CONNECTIONS and not self.server_state.close_longest_waiting():
            transport.abort()  # all others are being answered
            return
        self._wait(server_limits.HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_more()
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once, also when the client has not taken what was sent."""
        self._wait_no_more()
        self.transport.abort()

    def _wait(self, seconds: float) -> None:
        self.server_state.waiting[self._address][self] = None
        self.deadline = time.monotonic() + seconds

    def _wait_no_more(self) -> None:
        waiting = self.server_state.waiting[self._address]
        waiting.pop(self, None)
        if not waiting:
            del self.server_state.waiting[self._address]

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        view = memoryview(data)
        for start in range(0, len(data), server_limits.HEAD_BYTES):
            if self.transport.is_closing():
                break
            piece = view[start : start + server_limits.HEAD_BYTES]
            self._unparsed += len(piece)
            super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer
            if self._unparsed > server_limits.HEAD_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        """Begin to count: this is a request."""
        if len(self.pipeline) >= server_limits.PIPELINED_REQUESTS:
            raise _Exceeded
        super().on_message_begin()
        self._in_head = True
        self._fields = self._head_bytes = self._chunks = self._body_bytes = self._dropped = 0
        self.deadline = time.monotonic() + server_limits.HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        """Count a part of the first line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer of a body."""
        self._fields += 1
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._unparsed = 0
        self._head_bytes += size
        if self._head_bytes > server_limits.HEAD_BYTES or self._fields > server_limits.HEAD_FIELDS:
            self._exceeded = True
            raise _Exceeded

    def on_headers_complete(self) -> None:
        """Admit the request."""
        self._unparsed, self._in_head, self._in_body = 0, False, True
        self._wait_no_more()
        self.deadline = time.monotonic() + server_limits.BODY_SECONDS
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Count a chunk of the body."""
        self._unparsed = 0
        self._chunks += 1
        if self._chunks > server_limits.SMALL_CHUNKS + self._body_bytes // server_limits.CHUNK_BYTES:
            raise _Exceeded
        self._drop(server_limits.DROPPED_CHUNK_BYTES)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unparsed = 0
        self._body_bytes += len(body)
        self._drop(len(body))
        super().on_body(body)

    def _drop(self, size: int) -> None:
        """Count what came of a body after its request was refused; beyond a limit, end connection and parsing."""
        if self.cycle is not None and self.cycle.response_complete:
            self._dropped += size
            if self._dropped > server_limits.DROPPED_BYTES:
                self.end()
                raise _Exceeded

    def on_message_complete(self) -> None:
        """Wait for the answer, for which scoring has limits of its own."""
        self._unparsed, self._in_body = 0, False
        self.deadline = math.inf
        super().on_message_complete()
        if self.cycle.response_complete:  # the request was refused before its body had come
            self._wait_for_next()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that nobody needs."""
        super().on_response_complete()
        if self._in_body:
            self.server_state.waiting[self._address][self] = None
        elif not self.pipeline:
            self._wait_for_next()

    def _wait_for_next(self) -> None:
        if self._in_head:  # the next request had begun before this answer
            self._wait(server_limits.HEAD_SECONDS)
        elif self.transport.get_write_buffer_size():
            self._wait(server_limits.ANSWER_SECONDS)
        else:
            self._wait(server_limits.KEEP_ALIVE_SECONDS)

    def pause_writing(self) -> None:
        """Limit the time in which the client does not read."""
        self.server_state.waiting[self._address][self] = None
        self.reading_deadline = time.monotonic() + server_limits.ANSWER_SECONDS
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on: the client reads again."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_more()  # it is being answered
        self.reading_deadline = math.inf
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is no HTTP, or exceeds a limit."""
        if self._exceeded:
            self._refuse()
        elif not self.transport.is_closing():  # `_drop` has ended it, after an answer
            super().send_400_response(msg)

    def _refuse(self) -> None:
        self.transport.write(_REFUSAL)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that ends connections whose client takes too long."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.server_state = _State()

    async def on_tick(self, counter: int) -> bool:
        """Look at the deadlines once a second."""
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                if now > min(connection.deadline, connection.reading_deadline):
                    connection.end()
        return await super().on_tick(counter)
