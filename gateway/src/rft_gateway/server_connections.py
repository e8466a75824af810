"""Connections to servers: what they cost besides the bytes of their answers is bounded. aiohttp limits bytes only."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

_PIECE = 16 << 10
"""Bytes that are parsed before the limits are looked at: parsing them takes milliseconds at most."""
_INTERIM_ANSWERS = 16
"""Largest number of answers with a status below 200 before the answer itself. Servers of models send none."""
_SMALL_CHUNKS = 4096
_CHUNK_BYTES = 32
"""Largest number of chunks of an answer, beside one for each 32 bytes: to parse one takes as long as hundreds of bytes.
Servers send an event, or many kilobytes, in each."""


class ServerConnector(aiohttp.TCPConnector):
    """Makes connections to servers.

    Args:
        more: arguments of aiohttp's connector.
    """

    def __init__(self, **more: Any):
        super().__init__(**more)
        factory: Any = partial(_Connection, loop=self._loop)
        self._factory = factory


class _Connection(ResponseHandler):
    """A connection that is closed when its server sends more answers or chunks than anybody needs."""

    def __init__(self, **more: Any):
        super().__init__(**more)
        self._interim_answers = self._chunks = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes of the server."""
        if len(data) <= _PIECE:
            self._take(data)
            return
        for start in range(0, len(data), _PIECE):
            if self.transport is None or self.transport.is_closing():
                return
            self._take(data[start : start + _PIECE])

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take the head of an answer."""
        self._chunks = 0
        is_interim = data[0].code < 200
        self._interim_answers = self._interim_answers + 1 if is_interim else 0
        if self._interim_answers <= _INTERIM_ANSWERS:
            super().feed_data(data, size)
        elif self._interim_answers == _INTERIM_ANSWERS + 1:
            self._end("too many answers")

    def _take(self, data: bytes) -> None:
        body = self._payload
        chunks = _count_chunks(body)
        super().data_received(data)
        if self._payload is not body:
            body, chunks = self._payload, 0
        self._chunks += _count_chunks(body) - chunks
        if body is not None and self._chunks > _SMALL_CHUNKS + body.total_bytes // _CHUNK_BYTES:
            self._end("too many chunks")

    def _end(self, reason: str) -> None:
        error = aiohttp.ClientPayloadError(f"the server sends {reason}")
        if self._payload is not None:
            self._payload.set_exception(error)
        self.set_exception(error)
        if self.transport is not None:
            self.transport.abort()


def _count_chunks(body: Any) -> int:
    """Return how many chunks of a body are held. aiohttp says nowhere else that a chunk has come."""
    return len(getattr(body, "_http_chunk_splits", None) or ())
