"""Asks foreign servers over HTTP: a deadline for the whole answer, a limit of its size. Needs httpx."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from rft_api.exact_json import parse_row
from rft_api.foreign.sizes import format_size

DEFAULT_HEADERS = {"accept-encoding": "identity"}
"""An answer that is compressed could be a thousand times as large as what was received of it."""


class ForeignAnswerError(Exception):
    """A server has not given an answer that can be used; the message says why, as the end of a sentence about it."""


@dataclass(frozen=True)
class Answer:
    """An answer that has been read whole."""

    status: int
    """Status code of HTTP."""
    body: bytes

    def text(self) -> str:
        """The body as a text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: when it is none, or has what programs read differently; see `parse_row`.
        """
        return parse_row(self.body)


async def ask(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    seconds: float,
    maximum_bytes: int,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request, and read the whole answer. Redirects are not followed.

    Args:
        client: the client.
        method: the method, such as GET.
        url: the URL.
        seconds: the deadline for everything: to connect, to send, and to receive the last byte. (Timeouts of httpx are
            for each read, so a server that sends a byte a second never exceeds them.)
        maximum_bytes: the largest body.
        content: the body of the request.
        headers: headers of the request.

    Raises:
        ForeignAnswerError: when there is no answer in time, or it is too large or compressed.
    """
    body = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(
                method, url, content=content, headers={**DEFAULT_HEADERS, **(headers or {})}, timeout=seconds,
                follow_redirects=False,
            ) as response,
        ):  # fmt: skip
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise ForeignAnswerError("sends a compressed answer, though none was asked for")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > maximum_bytes:
                    raise ForeignAnswerError(f"answers with more than {format_size(maximum_bytes)}")
    except (TimeoutError, httpx.TimeoutException):
        raise ForeignAnswerError(f"does not answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ForeignAnswerError(f"cannot be asked: {str(error) or type(error).__name__}") from None
    return Answer(response.status_code, bytes(body))
