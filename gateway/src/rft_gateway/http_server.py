"""The HTTP server: the head of a request is bounded, its end comes in time, and the log has no bytes of a request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rft_api.foreign import server_limits

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class HttpServer(web.Server):
    """A server of aiohttp with the limits of this project.

    Args:
        handler: answers requests.
        more: further arguments of aiohttp's server.
    """

    def __init__(self, handler: Any, **more: Any):
        super().__init__(handler, access_log=None, logger=_http_logger(), max_headers=server_limits.HEAD_FIELDS, **more)

    def __call__(self) -> web.RequestHandler:
        """Return what serves a new connection."""
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Wait until requests have ended, for a time in seconds, and cancel them then.

        aiohttp waits twice for so long, before and after it has said to the body of a request that it is over. What is
        cancelled later than planned is killed before its usage is recorded.
        """
        await super().shutdown(None if timeout is None else timeout / 2)


def has_left(request: web.BaseRequest) -> bool:
    """Return whether a request was cancelled because its client is gone, and not because this program ends."""
    return isinstance(request.protocol, _Connection) and request.protocol.has_left


class _Connection(web.RequestHandler):
    """A connection that is closed when a head is too large: aiohttp limits its lines and their number only."""

    __slots__ = ("_body", "_head_bytes", "_is_stopping", "has_left")

    def __init__(self, manager: web.Server, **more: Any):
        super().__init__(manager, **more)
        self._head_bytes = 0
        self._body: StreamReader | None = None
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
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        requests = len(self._messages)
        # Otherwise these bytes begin with a part of a body, or aiohttp has stopped to read heads.
        is_head = requests < self._max_msg_queue_size and (self._body is None or self._body.is_eof())
        super().data_received(data)
        if len(self._messages) > requests:
            self._head_bytes, self._body = 0, self._messages[-1][1]
        elif is_head:
            self._head_bytes += len(data)
        if self._head_bytes > server_limits.HEAD_BYTES and self.transport is not None:
            if self._current_request is None:
                self.transport.write(_TOO_LARGE)
            self.force_close()


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
