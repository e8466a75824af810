"""One request to one server: its answer passes through, and its usage is taken from what passes by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import orjson
from aiohttp import web

from rft_api.foreign import server_limits
from rft_api.gateway_routes import Route
from rft_gateway import server_errors
from rft_gateway.errors import ApiError
from rft_gateway.ledger import Outcome
from rft_gateway.logs import Assembly
from rft_gateway.records import Record
from rft_gateway.replicas import Replica, Replicas
from rft_gateway.requests import Api, Call
from rft_gateway.streams import EventStream
from rft_gateway.usage import StreamTally, usage_of

CLIENT_LEFT = 499
"""The status code that the ledger has for a client that left before it got one; nginx's."""
CONNECT_SECONDS = 5.0
"""Time in which a server takes a connection. Servers are near."""
KEEP_ALIVE_SECONDS = 3.0
"""Time for which a connection to a server is kept for the next request. vLLM closes it after 5 s: a request that is
sent at this very moment would be lost."""
LARGEST_ANSWER = 64 << 20
"""Largest answer in bytes that is no stream: as the largest request."""
LARGEST_ERROR = 1 << 20
_CHUNK = 1 << 16
_logger = logging.getLogger(__name__)


@dataclass
class Exchange:
    """A request on its way."""

    request: web.BaseRequest
    call: Call
    route: Route
    affinity: str
    """Requests with the same text meet the same cache; the empty text if there is nothing to share."""
    record: Record
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, besides those of its content."""
    tally: StreamTally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = StreamTally(self.call.completions, self.call.prompt_estimate)


class _ClientLeft(Exception):
    """The client does not take the answer any more."""


class Proxy:
    """Passes requests on to servers. It is an async context manager.

    Args:
        replicas: the servers, with their load.
        answer_seconds: the longest time in which a server may send nothing, before it is given up.
    """

    def __init__(self, replicas: Replicas, answer_seconds: float):
        self._replicas = replicas
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=answer_seconds)

    async def __aenter__(self) -> Proxy:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=10),
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"content-type": "application/json", "accept-encoding": "identity"},
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def forward(self, exchange: Exchange) -> web.StreamResponse:
        """Send the request to a server, and pass its answer on. Usage is durable before the client has all of it.

        Raises:
            ApiError: when the client gets an error instead of an answer.
            asyncio.CancelledError: when the client has left.
        """
        try:
            async with self._answer(exchange) as answer:
                if answer.status >= 300:
                    raise await _server_error(exchange, answer)
                if answer.content_type == "text/event-stream":
                    return await _pass_stream(exchange, answer)
                return await _pass_document(exchange, answer)
        except (asyncio.CancelledError, _ClientLeft):
            # Leaving the block has closed the connection, so the server stops. What it had generated is counted.
            exchange.record.write(exchange.tally.usage(), CLIENT_LEFT, Outcome.CLIENT_LEFT)
            raise asyncio.CancelledError from None
        except ApiError as error:
            refused = error.status < 500
            outcome = Outcome.REFUSED if refused else Outcome.SERVER_FAILED
            await asyncio.shield(exchange.record.write(exchange.tally.usage(), error.status, outcome))
            raise

    @asynccontextmanager
    async def _answer(self, exchange: Exchange) -> AsyncIterator[aiohttp.ClientResponse]:
        """Have a server begin its answer. Another replica is tried only while nothing was sent.

        Raises:
            ApiError: when there is no answer.
        """
        body = exchange.call.body_for(exchange.route.served_model)
        for replica in self._replicas.in_order(exchange.route.servers, exchange.affinity):
            with replica.in_use():
                try:
                    answer = await self._post(replica, exchange, body)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    self._replicas.mark_away(replica)
                    continue
                except TimeoutError:
                    raise server_errors.too_late() from None
                except (aiohttp.ClientError, OSError) as error:
                    _logger.warning("%s: %s", replica.url, type(error).__name__)
                    raise server_errors.broken_off() from None
                try:
                    yield answer
                finally:
                    answer.release()  # closes the connection if something is left of the answer
                return
        raise server_errors.unavailable(exchange.route.model)

    async def _post(self, replica: Replica, exchange: Exchange, body: bytes) -> aiohttp.ClientResponse:
        url = f"{replica.url}{exchange.call.api.value}"
        return await self._session.post(
            url, data=body, headers={"x-request-id": exchange.record.id}, allow_redirects=False
        )


async def _server_error(exchange: Exchange, answer: aiohttp.ClientResponse) -> ApiError:
    body = await _read(answer, LARGEST_ERROR)
    retry_after = answer.headers.get("retry-after")
    return server_errors.from_answer(exchange.call.api, exchange.route.model, answer.status, body, retry_after)


async def _pass_document(exchange: Exchange, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Pass on an answer that is no stream."""
    body = await _read(answer, LARGEST_ANSWER)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise server_errors.broken_off() from None
    whole = document if isinstance(document, dict) and exchange.call.api is not Api.EMBEDDINGS else None
    await asyncio.shield(exchange.record.write(usage_of(document), answer.status, Outcome.ANSWERED, whole))
    headers = {"content-type": answer.headers.get("content-type", "application/json"), **exchange.headers}
    return web.Response(body=_renamed(exchange.route, body), status=answer.status, headers=headers)


async def _pass_stream(exchange: Exchange, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Pass on a stream. Its end is held back until usage is durable; an error in the middle becomes its last event."""
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **exchange.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    assembly = Assembly() if exchange.record.keeps_conversation else None
    events = EventStream(exchange.call, exchange.tally, server_errors.from_event, assembly)
    error: ApiError | None = None
    begun = False
    try:
        async for data in _chunks(answer):
            passed = events.feed(data)
            if not passed:
                continue
            if not begun:
                begun = True
                exchange.record.note_first_part()
                await _prepare(exchange, response)
            await _send(exchange, response, _renamed(exchange.route, passed))
    except ApiError as failure:
        if not begun:
            raise
        error = failure
    except ValueError as failure:
        _logger.warning("a stream of %s/%s %s", exchange.route.namespace, exchange.route.model, failure)
        error = server_errors.broken_off()
    if not begun:
        await _prepare(exchange, response)
    if error is None and events.error is None and not (events.is_complete or exchange.tally.is_complete):
        error = server_errors.broken_off()
    outcome = Outcome.SERVER_FAILED if error or events.error else Outcome.ANSWERED
    end = events.held if error is None else _event(error)
    whole = assembly.answer() if assembly else None
    try:
        await asyncio.shield(exchange.record.write(exchange.tally.usage(), answer.status, outcome, whole))
    except ApiError as failure:
        end = _event(failure)  # an answer whose usage cannot be recorded is not given
    await _send(exchange, response, _renamed(exchange.route, end))
    await _end(response)
    return response


def _event(error: ApiError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


async def _prepare(exchange: Exchange, response: web.StreamResponse) -> None:
    try:
        await response.prepare(exchange.request)
    except ConnectionError:
        raise _ClientLeft from None


async def _end(response: web.StreamResponse) -> None:
    try:
        await response.write_eof()
    except ConnectionError:
        raise _ClientLeft from None


async def _send(exchange: Exchange, response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(server_limits.ANSWER_SECONDS):
            await response.write(data)
    except TimeoutError:
        if (transport := exchange.request.transport) is not None:
            transport.abort()  # closing would wait until the client has taken everything
        raise _ClientLeft from None
    except ConnectionError:
        raise _ClientLeft from None


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield what the server sends.

    Raises:
        ApiError: when it ends the connection, or sends nothing for too long.
    """
    try:
        async for data in answer.content.iter_any():
            yield data
    except TimeoutError:
        raise server_errors.too_late() from None
    except (aiohttp.ClientError, OSError):
        raise server_errors.broken_off() from None


async def _read(answer: aiohttp.ClientResponse, maximum: int) -> bytes:
    parts = bytearray()
    async for data in _chunks(answer):
        parts += data
        if len(parts) > maximum:
            raise ApiError(502, "The server's answer is too large.", code="answer_too_large")
    return bytes(parts)


def _renamed(route: Route, data: bytes) -> bytes:
    """Return a part of an answer with the name by which the client knows the model."""
    if route.served_model == route.model:
        return data
    return data.replace(b'"model":' + orjson.dumps(route.served_model), b'"model":' + orjson.dumps(route.model))
