"""Gives answers to clients, which have a limited time to take them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Mapping
from types import coroutine
from typing import Any

from aiohttp import web

from rft_api.foreign import server_limits


class ClientLeft(Exception):
    """The client does not take the answer any more."""


async def in_time(request: web.BaseRequest, work: Coroutine[Any, Any, object]) -> None:
    """Wait until a client has taken a part of its answer.

    Most parts go into the buffer of the connection at once. Only what has to wait for the client gets a timer: one for
    each part of a stream would take as long as writing it.

    Args:
        request: the request of the client.
        work: writes the part.

    Raises:
        ClientLeft: when it has closed the connection, or takes nothing for too long.
    """
    try:
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        async with asyncio.timeout(server_limits.ANSWER_SECONDS):
            await _go_on(work, awaited)
    except TimeoutError:
        if (transport := request.transport) is not None:
            transport.abort()  # closing would wait until the client has taken everything
        raise ClientLeft from None
    except ConnectionError:
        raise ClientLeft from None


@coroutine
def _go_on(work: Coroutine[Any, Any, object], awaited: Any) -> Generator[Any, Any, None]:
    """Await work that has begun, and awaits something: as `await work` would have gone on."""
    try:
        while True:
            try:
                value = yield awaited
            except BaseException as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(value)
    except StopIteration:
        return


def event_stream(headers: Mapping[str, str]) -> web.StreamResponse:
    """Return an answer that is a stream of server-sent events, and has not begun.

    Args:
        headers: those of the answer besides those of its content.
    """
    content = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return web.StreamResponse(headers={**content, **headers})


async def give(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give a client a whole answer.

    Raises:
        ClientLeft: when it does not take it.
    """

    async def write() -> None:
        await response.prepare(request)
        await response.write_eof()

    await in_time(request, write())
