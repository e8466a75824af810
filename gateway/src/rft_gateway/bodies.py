"""Reads the bodies of requests: none is too large or takes too long, and all together take a bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from rft_api.foreign import server_limits
from rft_api.foreign.sizes import format_size
from rft_gateway.errors import ApiError
from rft_gateway.server_errors import RETRY_SECONDS


class Bodies:
    """The bodies that are held at the same time."""

    def __init__(self) -> None:
        self._bytes = 0

    @contextmanager
    def held(self) -> Iterator[HeldBody]:
        """Hold a body for as long as the block lasts."""
        body = HeldBody(self)
        try:
            yield body
        finally:
            self._bytes -= body.size

    def take(self, size: int) -> None:
        """Count bytes of a body.

        Raises:
            ApiError: 503 when there is no room for them.
        """
        if self._bytes + size > server_limits.BODIES_BYTES:
            message = "The requests of others take too much memory at the moment. Please try again."
            raise ApiError(503, message, code="overloaded", headers={"retry-after": RETRY_SECONDS})
        self._bytes += size


class HeldBody:
    """A body that counts for as long as it is held."""

    def __init__(self, bodies: Bodies):
        self._bodies = bodies
        self.size = 0

    async def read(self, request: web.BaseRequest) -> bytes:
        """Read the body of a request.

        Raises:
            ApiError: 413 when it is too large, 408 when it takes too long, 400 when it breaks off.
        """
        if (request.content_length or 0) > server_limits.BODY_BYTES:
            raise _too_large()
        content = bytearray()
        try:
            async with asyncio.timeout(server_limits.BODY_SECONDS):
                async for data in request.content.iter_any():
                    self._bodies.take(len(data))
                    self.size += len(data)
                    if self.size > server_limits.BODY_BYTES:
                        raise _too_large()
                    content += data
        except TimeoutError:
            raise ApiError(408, f"The body has not come within {server_limits.BODY_SECONDS:g} s.") from None
        except (web.RequestPayloadError, ValueError):
            raise ApiError(400, "The body of the request cannot be read.") from None
        return bytes(content)


def _too_large() -> ApiError:
    limit = format_size(server_limits.BODY_BYTES)
    return ApiError(413, f"The body is larger than {limit}.", code="request_too_large")
