"""One request to one server: its answer passes through, and its usage is taken from what passes by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import orjson
from aiohttp import web

from rft_api.gateway_routes import Route
from rft_api.model import Json
from rft_gateway import server_errors
from rft_gateway.answers import ClientLeft, event_stream, give, in_time
from rft_gateway.bodies import HeldBody
from rft_gateway.errors import OVERLOADED, ApiError
from rft_gateway.http_server import has_left
from rft_gateway.large_bodies import LargeBodies
from rft_gateway.ledger import Outcome
from rft_gateway.logs import Assembly
from rft_gateway.records import Record
from rft_gateway.replicas import Replica, Replicas
from rft_gateway.requests import Api, Call
from rft_gateway.server_connections import ServerConnector
from rft_gateway.starts import Starts
from rft_gateway.streams import EventStream
from rft_gateway.usage import StreamTally, Usage
from rft_gateway.waiting import CONNECT_SECONDS, Waiting

CLIENT_LEFT = 499
"""The status code that the ledger has for a client that left before it got one; nginx's."""
STOPPED = 503
"""The status code that the ledger has for a request that had not ended when the gateway did."""
KEEP_ALIVE_SECONDS = 3.0
"""Time for which a connection to a server is kept for the next request. vLLM closes it after 5 s: a request that is
sent at this very moment would be lost."""
LARGEST_ANSWER = 64 << 20
"""Largest answer in bytes that is no stream: as the largest request."""
LARGEST_ERROR = 1 << 20
HEARTBEAT = b": waiting for the model to start\n\n"
_COMPLETION_BYTES = 256
"""What a completion of a stream takes of the memory, for its tokens so far."""
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
    check: Callable[[], object]
    """Raises the ApiError of a key that does not open the model any more."""
    memory: HeldBody
    """What the request takes of the memory for all of them."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, besides those of its content."""
    tally: StreamTally = field(init=False)
    stream: web.StreamResponse | None = field(init=False, default=None)
    """The answer, once a stream has begun."""

    def __post_init__(self) -> None:
        self.tally = StreamTally(self.call.bounds, self.call.prompt_estimate)

    def stated_usage(self) -> Usage | None:
        """Return the usage so far; None if the server has stated what the request cannot have used."""
        return None if self.tally.is_doubtful else self.tally.usage()


class Proxy:
    """Passes requests on to servers. It is an async context manager.

    Args:
        replicas: the servers, with their load.
        waiting: the requests whose model has no server.
        large: reads answers that are no streams.
        answer_seconds: the longest time in which a server may send nothing, before it is given up.
    """

    def __init__(self, replicas: Replicas, waiting: Waiting, large: LargeBodies, answer_seconds: float):
        self._replicas = replicas
        self._waiting = waiting
        self._large_bodies = large
        self._turns = Starts()
        """When costly parts of streams are read, and when requests that have waited go on."""
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=answer_seconds)

    async def __aenter__(self) -> Proxy:
        self._session = aiohttp.ClientSession(
            connector=ServerConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=10),
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
            asyncio.CancelledError: when the client has left, or the gateway has no more time.
        """
        try:
            async with self._answer(exchange) as answer:
                if answer.content_type == "text/event-stream":
                    return await self._pass_stream(exchange, answer)
                if exchange.stream is not None:
                    raise server_errors.broken_off()  # a stream has begun while it waited, and the server sends none
                return await self._pass_document(exchange, answer)
        except (asyncio.CancelledError, ClientLeft) as reason:
            # Leaving the block has closed the connection, so the server stops. What it had generated is counted.
            if isinstance(reason, ClientLeft) or has_left(exchange.request):
                status, outcome = CLIENT_LEFT, Outcome.CLIENT_LEFT
            else:
                status, outcome = STOPPED, Outcome.GATEWAY_STOPPED
            exchange.record.write(exchange.stated_usage(), status, outcome, estimate=exchange.tally.usage())
            raise asyncio.CancelledError from None
        except ApiError as error:
            outcome = Outcome.REFUSED
            if error.status >= 500 and exchange.record.is_sent:
                outcome = Outcome.GATEWAY_FAILED if error.code == OVERLOADED else Outcome.SERVER_FAILED
            try:
                await asyncio.shield(
                    exchange.record.write(
                        exchange.stated_usage(), error.status, outcome, estimate=exchange.tally.usage()
                    )
                )
            except ApiError as unrecorded:
                error = unrecorded
            return await _tell(exchange, error)

    async def _pass_document(self, exchange: Exchange, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass on an answer that is no stream. Only its bytes are held while its client takes it: they are counted."""
        body = await _read(answer, LARGEST_ANSWER, exchange.memory)
        await self._record_document(exchange, body, answer.status)
        headers = {"content-type": answer.headers.get("content-type", "application/json"), **exchange.headers}
        body = _renamed(exchange.route, body)
        response = web.Response(body=body, status=answer.status, headers=headers)
        await give(exchange.request, response)
        return response

    async def _pass_stream(self, exchange: Exchange, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass on a stream. Its end is held back until usage is durable; an error in the middle becomes its last
        event."""
        take = exchange.memory.take
        assembly = Assembly(take) if exchange.record.keeps_conversation else None
        events = EventStream(exchange.call, exchange.tally, server_errors.from_event, assembly, take)
        error: ApiError | None = None
        has_parts = False
        try:
            take(exchange.call.bounds.most_completions * _COMPLETION_BYTES)
            while data := await _next_part(answer):
                if events.is_paced(data):
                    await self._turns.wait(exchange.route.namespace)
                passed = events.feed(data)
                while passed or events.has_more:
                    if passed:
                        if not has_parts:
                            has_parts = True
                            exchange.record.note_first_part()
                        stream = exchange.stream or await _begin_stream(exchange)
                        await in_time(exchange.request, stream.write(_renamed(exchange.route, passed)))
                    if not events.has_more:
                        break
                    await self._turns.wait(exchange.route.namespace)
                    passed = events.go_on()
            if events.large_content is not None:
                usage = await self._large_bodies.read_last_event(events.large_content, exchange.route.namespace)
                exchange.tally.add_total(usage)
        except ApiError as failure:
            if not has_parts:
                raise
            error = failure
        except ValueError as failure:
            _logger.warning("a stream of %s/%s %s", exchange.route.namespace, exchange.route.model, failure)
            error = server_errors.broken_off()
        stream = exchange.stream or await _begin_stream(exchange)
        if error is None and events.error is None and not (events.is_complete or exchange.tally.is_complete):
            error = server_errors.broken_off()
        outcome = Outcome.SERVER_FAILED if error or events.error else Outcome.ANSWERED
        if error is not None and error.code == OVERLOADED:
            outcome = Outcome.GATEWAY_FAILED
        whole = _whole_answer(assembly, events) if assembly is not None else None
        if assembly is not None and assembly.is_too_large and outcome is Outcome.ANSWERED:
            exchange.record.note_too_large()
        usage = exchange.tally.usage()
        stated = exchange.stated_usage() if exchange.tally.is_complete or outcome is not Outcome.ANSWERED else None
        try:
            await asyncio.shield(exchange.record.write(stated, answer.status, outcome, whole, estimate=usage))
        except ApiError as failure:
            error = failure  # an answer whose usage cannot be recorded is not given
        end = events.held if error is None else _last_event(exchange, error)
        return await _end_stream(exchange, stream, _renamed(exchange.route, end))

    async def _record_document(self, exchange: Exchange, body: bytes, status: int) -> None:
        usage, document = await self._large_bodies.read_answer(body, exchange.route.namespace)
        if usage is not None and not exchange.call.bounds.allow(usage):
            usage = None
        whole = None if exchange.call.api is Api.EMBEDDINGS else document
        await asyncio.shield(exchange.record.write(usage, status, Outcome.ANSWERED, whole))

    @asynccontextmanager
    async def _answer(self, exchange: Exchange) -> AsyncIterator[aiohttp.ClientResponse]:
        """Have a server begin its answer. While there is none, the request waits, if it may.

        Raises:
            ApiError: when there is no answer.
        """
        demand = self._waiting.demand
        with demand.request(exchange.route), self._waiting.place(exchange.route, len(exchange.call.body)) as place:
            while True:
                async with self._attempt(exchange, place.find_route()) as answer:
                    if answer is not None:
                        place.note_answer()
                        yield answer
                        return
                try:
                    await place.wait(partial(_beat, exchange) if exchange.call.stream else None)
                finally:
                    exchange.record.note_cold_start(place.seconds)
                exchange.check()  # the key may have been revoked meanwhile
                await self._turns.wait(exchange.route.namespace)  # thousands may go on at the same time

    @asynccontextmanager
    async def _attempt(self, exchange: Exchange, route: Route) -> AsyncIterator[aiohttp.ClientResponse | None]:
        """Have one of the servers begin its answer; None when they all take no connection, or do not have the model.

        Another replica is tried only while nothing was done for the request.

        Raises:
            ApiError: when a server has failed.
        """
        body = exchange.call.body_for(route.served_model)
        for replica in self._replicas.in_order(route.servers, exchange.affinity):
            with replica.in_use(), self._waiting.demand.in_flight(route):
                exchange.record.is_sent = True
                try:
                    answer = await self._post(replica, exchange, body)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    exchange.record.is_sent = False
                    self._replicas.mark_away(replica)
                    continue
                except TimeoutError:
                    raise server_errors.too_late() from None
                except (aiohttp.ClientError, OSError) as error:
                    _logger.warning("%s: %s", replica.url, type(error).__name__)
                    raise server_errors.broken_off() from None
                try:
                    if answer.status >= 300:
                        text = await _read(answer, LARGEST_ERROR)
                        if server_errors.lacks_model(answer.status, text):
                            exchange.record.is_sent = False  # it has not loaded the adapter yet
                            continue
                        raise _server_error(exchange, answer, text)
                    yield answer
                finally:
                    answer.release()  # closes the connection if something is left of the answer
                return
        yield None

    async def _post(self, replica: Replica, exchange: Exchange, body: bytes) -> aiohttp.ClientResponse:
        url = f"{replica.url}{exchange.call.api.value}"
        headers = {"x-request-id": exchange.record.id}
        if exchange.record.span is not None:
            headers |= exchange.record.span.headers_for(replica.url)
        return await self._session.post(url, data=body, headers=headers, allow_redirects=False)


def _server_error(exchange: Exchange, answer: aiohttp.ClientResponse, body: bytes) -> ApiError:
    retry_after = answer.headers.get("retry-after")
    return server_errors.from_answer(exchange.call.api, exchange.route.model, answer.status, body, retry_after)


def _whole_answer(assembly: Assembly, events: EventStream) -> Json | bytes | None:
    """Return the answer of a stream: its document, or the bytes of a large one."""
    return assembly.answer() if events.large_content is None else events.large_content


async def _tell(exchange: Exchange, error: ApiError) -> web.StreamResponse:
    """Tell a client an error: as the last event of a stream that has begun; otherwise the error is raised."""
    if exchange.stream is None:
        raise error
    try:
        return await _end_stream(exchange, exchange.stream, _last_event(exchange, error))
    except ClientLeft:
        raise asyncio.CancelledError from None


def _last_event(exchange: Exchange, error: ApiError) -> bytes:
    exchange.record.note_error(error)
    return b"data: " + error.body() + b"\n\n"


async def _beat(exchange: Exchange) -> None:
    """Send a comment, which clients ignore, so that nobody closes the connection of a stream that waits."""
    stream = exchange.stream or await _begin_stream(exchange)
    await in_time(exchange.request, stream.write(HEARTBEAT))


async def _begin_stream(exchange: Exchange) -> web.StreamResponse:
    exchange.stream = event_stream(exchange.headers)
    await in_time(exchange.request, exchange.stream.prepare(exchange.request))
    return exchange.stream


async def _end_stream(exchange: Exchange, stream: web.StreamResponse, end: bytes) -> web.StreamResponse:
    await in_time(exchange.request, stream.write_eof(end))
    return stream


async def _next_part(answer: aiohttp.ClientResponse) -> bytes:
    """Return what the server sends next; nothing at the end.

    Raises:
        ApiError: when it ends the connection, or sends nothing for too long.
    """
    try:
        return await answer.content.readany()
    except TimeoutError:
        raise server_errors.too_late() from None
    except (aiohttp.ClientError, OSError):
        raise server_errors.broken_off() from None


async def _read(answer: aiohttp.ClientResponse, maximum: int, memory: HeldBody | None = None) -> bytes:
    parts = bytearray()
    while data := await _next_part(answer):
        if memory is not None:
            memory.take(len(data))
        parts += data
        if len(parts) > maximum:
            raise server_errors.answer_too_large()
    return bytes(parts)


def _renamed(route: Route, data: bytes) -> bytes:
    """Return a part of an answer with the name by which the client knows the model."""
    if route.served_model == route.model:
        return data
    return data.replace(b'"model":' + orjson.dumps(route.served_model), b'"model":' + orjson.dumps(route.model))
