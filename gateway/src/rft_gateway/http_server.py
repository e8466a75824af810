"""The HTTP server: what a client costs is bounded in bytes, chunks and time, and the log has no bytes of a request."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rft_api.foreign import server_limits
from rft_api.foreign.sizes import format_size
from rft_gateway.errors import ApiError

LOOK_SECONDS = 1.0
"""Time between two looks at the connections that wait for a request."""
_MOST_HELD_BYTES = 4 * server_limits.HEAD_BYTES
"""What a request counts for at most before its key is known: aiohttp stops to read a body that nobody reads."""
_TOO_LARGE = ApiError(431, f"The head of the request is larger than {format_size(server_limits.HEAD_BYTES)}.").body()
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)
_UNREADABLE = "This is no request of HTTP, or a part of its head is too long."
_FAILED = "The gateway had an error while processing your request."


class HttpServer(web.Server):
    """A server of aiohttp with the limits of this project.

    Args:
        handler: answers requests.
        more: further arguments of aiohttp's server.
    """

    def __init__(self, handler: Any, **more: Any):
        super().__init__(handler, access_log=None, logger=_http_logger(), max_headers=server_limits.HEAD_FIELDS, **more)
        self._unknown: dict[_Connection, int] = {}
        """Bytes of requests whose key is not known yet, by connection; the oldest is first."""
        self._unknown_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> web.RequestHandler:
        """Return what serves a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Wait until requests have ended, for a time in seconds, and cancel them then.

        aiohttp waits twice for so long, before and after it has said to the body of a request that it is over. What is
        cancelled later than planned is killed before its usage is recorded.
        """
        await super().shutdown(None if timeout is None else timeout / 2)
        if self._timer is not None:
            self._timer.cancel()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Note a new connection."""
        super().connection_made(handler, transport)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def hold(self, connection: _Connection, size: int) -> None:
        """Count bytes of a request whose key is not known; beyond the limit, end the connections with the oldest."""
        held = self._unknown.get(connection, 0)
        size = min(size, _MOST_HELD_BYTES - held)
        self._unknown[connection] = held + size
        self._unknown_bytes += size
        while self._unknown_bytes > server_limits.UNKNOWN_BYTES:
            next(iter(self._unknown)).end()

    def release(self, connection: _Connection) -> None:
        """Count nothing of a connection any more."""
        self._unknown_bytes -= self._unknown.pop(connection, 0)

    def _look(self) -> None:
        """End connections that have no request in time, and those that wait longest when there are too many."""
        now = asyncio.get_running_loop().time()
        waiting = [each for each in self._connections if isinstance(each, _Connection) and each.is_waiting()]
        for each in waiting:
            if each.head_deadline < now:
                each.end()
        excess = len(waiting) - server_limits.WAITING_CONNECTIONS
        if excess > 0:
            for each in heapq.nsmallest(excess, waiting, key=_Connection.keep_alive_deadline):
                each.end()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look) if self._connections else None


def has_left(request: web.BaseRequest) -> bool:
    """Return whether a request was cancelled because its client is gone, and not because this program ends."""
    return isinstance(request.protocol, _Connection) and request.protocol.has_left


def note_key(request: web.BaseRequest) -> None:
    """Note that a request has a key: its memory has limits of its own from now on."""
    if isinstance(request.protocol, _Connection):
        request.protocol.note_key()


class SmallChunksError(web.RequestPayloadError):
    """A body has too many small chunks."""

    def __init__(self) -> None:
        most, size = server_limits.SMALL_CHUNKS, server_limits.CHUNK_BYTES
        super().__init__(f"The body has more than {most:,} chunks of fewer than {size} bytes. Send larger ones.")


class _Connection(web.RequestHandler):
    """A connection that is closed when a head is too large or slow: aiohttp limits its lines and their number only."""

    __slots__ = (
        "_body",
        "_chunks",
        "_dropped_chunks",
        "_has_key",
        "_head_bytes",
        "_is_stopping",
        "_last_bytes",
        "_read_bytes",
        "_refused_body",
        "_server",
        "has_left",
        "head_deadline",
    )

    def __init__(self, manager: HttpServer, **more: Any):
        super().__init__(manager, **more)
        self._server = manager
        self._has_key = False
        self._head_bytes = self._last_bytes = 0
        self.head_deadline = self._loop.time() + server_limits.HEAD_SECONDS
        """When the head of a request that has begun has to be complete, as a time of the event loop."""
        self._body: StreamReader | None = None
        self._refused_body: StreamReader | None = None
        """The newest body whose request was answered; what still comes of it is dropped."""
        self._chunks = self._dropped_chunks = self._read_bytes = 0
        self._is_stopping = False
        self.has_left = False
        """Whether the connection has ended, and not because this program ends."""

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Wait until the request has ended, for a time in seconds; then cancel it, and close the connection."""
        self._is_stopping = True
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection has ended, and cancel its request."""
        self.has_left = not self._is_stopping or self.transport is not None  # aiohttp drops what it closes itself
        self._server.release(self)
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once, also when the client has not taken what was sent."""
        transport = self.transport
        self._server.release(self)
        self.force_close()
        if transport is not None:
            transport.abort()

    def is_waiting(self) -> bool:
        """Return whether it waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    def _hold(self, size: int, is_complete: bool) -> None:
        """Count bytes of a client without a key until it sends a complete head again, or leaves."""
        if is_complete:  # what came with the last head may have had the beginning of this one
            size += self._last_bytes + self._head_bytes
            self._server.release(self)
        self._server.hold(self, size)

    def _limit_chunks(self, body: StreamReader, count: int) -> None:
        """Count chunks of a body; beyond a limit, it cannot be read any more, and the connection ends."""
        self._chunks += count
        if body is self._refused_body:
            self._dropped_chunks += count
            size = server_limits.DROPPED_BYTES + body.total_bytes - self._read_bytes
            if self._dropped_chunks > size // server_limits.DROPPED_CHUNK_BYTES:
                self.end()
        elif self._chunks > server_limits.SMALL_CHUNKS + body.total_bytes // server_limits.CHUNK_BYTES:
            body.set_exception(SmallChunksError())
            body.feed_eof()  # nobody waits for the rest after the answer
            self.close()

    def keep_alive_deadline(self) -> float:
        """Return when it is closed without another request; of two, the one that has waited longer has the earlier."""
        return self._next_keepalive_close_time

    def note_key(self) -> None:
        """Note that the request has a key."""
        self._has_key = True
        self._server.release(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return an error as OpenAI's API states it. The text of aiohttp has bytes of the client."""
        super().handle_error(request, status, exc, message)  # logs it, and raises an error if an answer has begun
        error = ApiError(status, _UNREADABLE if status == 400 else _FAILED)
        response = web.Response(status=status, body=error.body(), content_type="application/json")
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of an answer."""
        result = await super().finish_response(request, resp, start_time)
        self._has_key = False
        self._refused_body, self._dropped_chunks = request.content, 0
        self._read_bytes = request.content.total_bytes
        return result

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        requests = len(self._messages)
        # Otherwise these bytes begin with a part of a body, or aiohttp has stopped to read heads.
        is_head = requests < self._max_msg_queue_size and (self._body is None or self._body.is_eof())
        chunks = _count_chunks(self._body)
        super().data_received(data)
        is_complete = len(self._messages) > requests
        if data and not self._has_key:
            self._hold(len(data), is_complete)
        if is_complete:
            self._head_bytes, self._body, self.head_deadline = 0, self._messages[-1][1], math.inf
            self._last_bytes = len(data)
            self._chunks = chunks = 0
        elif is_head and data and not self._close:
            if self._head_bytes == 0 and self.head_deadline == math.inf:
                self.head_deadline = self._loop.time() + server_limits.HEAD_SECONDS
            self._head_bytes += len(data)
        if (count := _count_chunks(self._body) - chunks) > 0 and self._body is not None:
            self._limit_chunks(self._body, count)
        if self._head_bytes > server_limits.HEAD_BYTES and self.transport is not None:
            if self._current_request is None:
                self.transport.write(_REFUSAL)
            self.force_close()


def _count_chunks(body: StreamReader | None) -> int:
    """Return how many chunks of a body are held. aiohttp says nowhere else that a chunk has come."""
    return len(getattr(body, "_http_chunk_splits", None) or ())


def _http_logger() -> logging.Logger:
    logger = logging.getLogger("rft_gateway.http")
    logger.addFilter(_take_bytes_out)
    return logger


def _take_bytes_out(record: logging.LogRecord) -> bool:
    """Drop what is no HTTP, which its client is told; anybody could fill the log with it. Of the rest, keep the type.

    The messages and traces of these errors have the bytes that could not be read.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        return False
    if error is not None:
        record.msg, record.args = "a connection has failed: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
    return True
