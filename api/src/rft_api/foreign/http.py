"""Asks foreign servers over HTTP: a deadline for the whole answer, a limit of its size. Needs httpx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from rft_api.exact_json import parse_row
from rft_api.foreign.sizes import format_size

DEFAULT_HEADERS = {"accept-encoding": "identity"}
"""An answer that is compressed could be a thousand times as large as what was received of it."""


class ForeignAnswerError(Exception):
    """A server has not given an answer that can be used; the message says why, as the end of a sentence about it."""


class LateAnswerError(ForeignAnswerError):
    """A server has not given its whole answer in time."""


class UnreachableError(ForeignAnswerError):
    """There is no connection to a server, or it broke.

    Args:
        problem: what the network or the server has said.
    """

    def __init__(self, problem: str):
        super().__init__(f"cannot be asked: {problem}")
        self.problem = problem


class UnreadAnswerError(ForeignAnswerError):
    """A server has answered with a body that is not read, because it is too large or compressed.

    Args:
        message: why.
        status: status code of HTTP.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """An answer that has been read whole."""

    status: int
    """Status code of HTTP."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers, by their names in lower case."""

    def text(self) -> str:
        """Return the body as a text; what is not UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON.

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
    connect_seconds: float | None = None,
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
        connect_seconds: time in which there must be a connection, for a caller to whom a server that cannot be reached
            differs from one that is slow.

    Raises:
        UnreachableError: when there is no connection, or it breaks.
        LateAnswerError: when there is no whole answer in time.
        UnreadAnswerError: when the answer is too large or compressed.
        ForeignAnswerError: when the request cannot be sent to such a URL.
    """
    body = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream(
                method, url, content=content, headers={**DEFAULT_HEADERS, **(headers or {})},
                timeout=httpx.Timeout(seconds, connect=connect_seconds or seconds), follow_redirects=False,
            ) as response,
        ):  # fmt: skip
            status = response.status_code
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise UnreadAnswerError("sends a compressed answer, though none was asked for", status)
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > maximum_bytes:
                    raise UnreadAnswerError(f"answers with more than {format_size(maximum_bytes)}", status)
    except (TimeoutError, httpx.TimeoutException) as error:
        if connect_seconds is not None and isinstance(error, httpx.ConnectTimeout):
            raise UnreachableError(f"no connection within {connect_seconds:g} s") from None
        raise LateAnswerError(f"does not answer within {seconds:g} s") from None
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ForeignAnswerError(f"cannot be asked: {str(error) or type(error).__name__}") from None
    except httpx.HTTPError as error:
        raise UnreachableError(str(error) or type(error).__name__) from None
    return Answer(status, bytes(body), {name.lower(): value for name, value in response.headers.items()})


def ask_once(
    method: str, url: str, seconds: float, maximum_bytes: int, content: Mapping[str, Any] | None = None
) -> Answer:
    """Do the same as `ask` in a thread without an event loop, over a connection of its own, to a server in this pod.

    Args:
        method: the method, such as GET.
        url: the URL, with http.
        seconds: the deadline for everything.
        maximum_bytes: the largest body of the answer.
        content: an object that is sent as JSON; None sends no body.

    Raises:
        LateAnswerError, ForeignAnswerError: as `ask`.
    """

    async def request() -> Answer:
        # Certificates, which would take a while to load, are for https.
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            body = None if content is None else json.dumps(content).encode()
            headers = None if content is None else {"content-type": "application/json"}
            return await ask(client, method, url, seconds, maximum_bytes, content=body, headers=headers)

    return asyncio.run(request())
