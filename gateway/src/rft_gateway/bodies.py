"""Reads the bodies of requests: none is too large or takes too long. With the answers, they take a bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import HttpVersion11, web

from rft_api.foreign import server_limits
from rft_api.foreign.sizes import format_size
from rft_gateway.answers import in_time
from rft_gateway.errors import ApiError, overloaded
from rft_gateway.http_server import SmallChunksError
from rft_gateway.shares import Shares

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Bodies:
    """The bodies and answers that are held at the same time. Each namespace has its share of the memory."""

    def __init__(self) -> None:
        self._shares = Shares(server_limits.BODIES_BYTES)

    @contextmanager
    def held(self, namespace: str) -> Iterator[HeldBody]:
        """Hold the body of a request of a namespace, and its answer, for as long as the block lasts."""
        body = HeldBody(self._shares, namespace)
        try:
            yield body
        finally:
            body.give_back()


class HeldBody:
    """A body, with its answer, that counts for as long as it is held; made by `Bodies.held`."""

    def __init__(self, shares: Shares, namespace: str):
        self._shares = shares
        self._namespace = namespace
        self._size = 0

    def take(self, size: int) -> None:
        """Count bytes of it.

        Raises:
            ApiError: 503 when there is no room for them.
        """
        if not self._shares.have_room(self._namespace, size):
            raise overloaded("The requests at the same time take too much memory.")
        self._shares.add(self._namespace, size)
        self._size += size

    def give_back(self) -> None:
        """Count nothing of it any more."""
        self._shares.add(self._namespace, -self._size)
        self._size = 0

    async def read(self, request: web.BaseRequest, maximum: int = server_limits.BODY_BYTES) -> bytes:
        """Read the body of a request.

        Args:
            request: the request.
            maximum: the largest number of bytes of its body.

        Raises:
            ApiError: 413 when it is too large, 408 when it takes too long, 400 when it breaks off.
            ClientLeft: when the client has left before it has sent it.
        """
        if (request.content_length or 0) > maximum:
            raise _too_large(maximum)
        if expects_continue(request):
            await send_continue(request)
        content = bytearray()
        seconds = None if request.content.is_eof() else server_limits.BODY_SECONDS  # it may have come with its head
        try:
            async with asyncio.timeout(seconds):
                async for data in request.content.iter_any():
                    self.take(len(data))
                    content += data
                    if len(content) > maximum:
                        raise _too_large(maximum)
        except TimeoutError:
            raise ApiError(408, f"The body has not come within {server_limits.BODY_SECONDS:g} s.") from None
        except SmallChunksError as error:
            raise ApiError(400, str(error)) from None
        except (web.RequestPayloadError, ValueError):
            raise ApiError(400, "The body of the request cannot be read.") from None
        return bytes(content)


def expects_continue(request: web.BaseRequest) -> bool:
    """Return whether a client waits for a sign before it sends its body."""
    return request.version >= HttpVersion11 and request.headers.get("expect", "").lower() == "100-continue"


async def send_continue(request: web.BaseRequest) -> None:
    """Give a client the sign that it may send its body.

    Raises:
        ClientLeft: when it has left.
    """
    await in_time(request, request.writer.write(_CONTINUE))
    request.writer.output_size = 0  # nothing of the answer has begun


def _too_large(maximum: int) -> ApiError:
    return ApiError(413, f"The body is larger than {format_size(maximum)}.", code="request_too_large")
