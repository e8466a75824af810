"""Gives answers to clients, which have a limited time to take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from rft_api.foreign import server_limits


class ClientLeft(Exception):
    """The client does not take the answer any more."""


async def in_time(request: web.BaseRequest, work: Awaitable[object]) -> None:
    """Wait until a client has taken a part of its answer.

    Args:
        request: the request of the client.
        work: writes the part.

    Raises:
        ClientLeft: when it has closed the connection, or takes nothing for too long.
    """
    try:
        async with asyncio.timeout(server_limits.ANSWER_SECONDS):
            await work
    except TimeoutError:
        if (transport := request.transport) is not None:
            transport.abort()  # closing would wait until the client has taken everything
        raise ClientLeft from None
    except ConnectionError:
        raise ClientLeft from None


async def give(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give a client a whole answer.

    Raises:
        ClientLeft: when it does not take it.
    """

    async def write() -> None:
        await response.prepare(request)
        await response.write_eof()

    await in_time(request, write())
