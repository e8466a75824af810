"""The HTTP application: who asks, how much they may, and which model; the rest is the proxy's."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from rft_api.foreign.files import most_values
from rft_api.gateway_routes import Route
from rft_api.model import Json
from rft_gateway.answers import ClientLeft, give
from rft_gateway.bodies import Bodies, HeldBody
from rft_gateway.errors import ApiError, model_not_found, require_few_fields, starting
from rft_gateway.feedback import FEEDBACK, find_model, keep_feedback, read_feedback
from rft_gateway.files.api import FilesApi, files_are_off, is_files_path
from rft_gateway.http_server import note_key
from rft_gateway.keys import Key, KeyRing, opens
from rft_gateway.large_bodies import LargeBodies
from rft_gateway.ledger import Outcome, make_id
from rft_gateway.limits import Limiter
from rft_gateway.proxy import Exchange, Proxy
from rft_gateway.records import Record, Records
from rft_gateway.requests import Api, Call, parse_body
from rft_gateway.routes import RouteTable
from rft_gateway.starts import Starts
from rft_gateway.turns import Turns
from rft_gateway.usage_api import PAGES

if TYPE_CHECKING:  # main imports it where it is wanted
    from rft_gateway.fine_tuning.routes import FineTuning

MODELS = "/v1/models"
HEALTH = "/healthz"
REQUEST_ID = "x-request-id"
"""Header of every answer; OpenAI's clients show it with an error."""
NOBODY = ""
"""Stands for the namespace of requests whose key opens nothing; namespaces have names."""
_DOCUMENT_BYTES, _DOCUMENT_VALUES = 8 << 20, 600_000
"""Largest body of feedback and of jobs, which is parsed between the requests of others: a line of a log or of data has
8 MiB, and most of its values are one text with commas."""
_LONGEST_NAME = 200
"""Characters of what a client has named that an error repeats."""
_APIS = {api.value: api for api in Api}
_logger = logging.getLogger(__name__)


class Door:
    """Answers requests of OpenAI's API."""

    def __init__(
        self,
        routes: RouteTable,
        keys: KeyRing,
        limiter: Limiter,
        records: Records,
        proxy: Proxy,
        large: LargeBodies,
        files: FilesApi | None,
        jobs: FineTuning | None,
    ):
        self._routes = routes
        self._keys = keys
        self._limiter = limiter
        self._records = records
        self._metrics = records.metrics
        self._proxy = proxy
        self._bodies = Bodies()
        self._large_bodies = large
        self._files = files
        self._jobs = jobs
        self._turns = Turns()
        self._starts = Starts()
        self._started = int(time.time())

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        arrival = datetime.now(UTC)
        request_id = make_id(arrival)
        try:
            response = await self._answer_or_refuse(request, request_id, arrival)
            if not response.prepared:
                response.headers[REQUEST_ID] = request_id
                await give(request, response)
        except ClientLeft:
            raise asyncio.CancelledError from None
        return response

    async def _answer_or_refuse(
        self, request: web.BaseRequest, request_id: str, arrival: datetime
    ) -> web.StreamResponse:
        try:
            return await self._answer(request, request_id, arrival)
        except ApiError as error:
            return self._refuse(error)
        except ClientLeft:
            raise
        except Exception as error:
            # Its message might have a part of the request.
            _logger.error("%s: %s at %s", request_id, type(error).__name__, _place(error))
            if request.writer.output_size:  # in the middle of a stream
                raise asyncio.CancelledError from None
            return self._refuse(ApiError(500, "The gateway had an error while processing your request."))

    async def _answer(self, request: web.BaseRequest, request_id: str, arrival: datetime) -> web.StreamResponse:
        path = request.path
        if path == HEALTH:
            return web.Response(text="ok\n")
        try:
            key = self._authenticate(request)
        except ApiError:
            await self._starts.wait(NOBODY)
            raise
        note_key(request)
        await self._starts.wait(key.namespace)
        if path == MODELS or path.startswith(f"{MODELS}/"):
            _require(request, "GET")
            return self._answer_models(key, path.removeprefix(MODELS).removeprefix("/"))
        if (page := PAGES.get(path)) is not None:
            _require(request, "GET")
            ask = partial(page, self._records.ledger, request.query, key.namespace)
            # Sums may have more than the 64 bits of orjson.
            page_text = json.dumps(await self._turns.take(key.namespace, ask), separators=(",", ":"))
            return web.Response(text=page_text, content_type="application/json")
        if path == FEEDBACK:
            _require(request, "POST")
            return await self._take_feedback(request, key)
        if self._jobs is not None and self._jobs.answers(path):
            return await self._answer_jobs(request, self._jobs, key, request_id)
        api = _APIS.get(path)
        if api is None and is_files_path(path):
            return await self._answer_files(request, key, request_id)
        if api is None:
            raise ApiError(404, f"Invalid URL ({request.method} {path[:_LONGEST_NAME]})", code="unknown_url")
        _require(request, "POST")
        with self._bodies.held(key.namespace) as body:
            call = await self._large_bodies.read_call(api, await body.read(request), key.namespace)
            route = self._find_route(key, call.model)
            with (
                self._limiter.admit(key, time.time(), call.token_estimate) as admission,
                self._metrics.in_flight.track_inprogress(),
            ):
                record = Record(self._records, request_id, arrival, key, route, call, admission, request.headers)
                headers = {**admission.headers, REQUEST_ID: request_id}
                check = partial(self._check, request, call.model)
                exchange = Exchange(request, call, route, _affinity(key, call), record, check, body, headers)
                return await self._forward(exchange)

    async def _answer_files(self, request: web.BaseRequest, key: Key, request_id: str) -> web.StreamResponse:
        if self._files is None:
            raise files_are_off()
        with self._bodies.held(key.namespace) as body, self._limiter.admit(key, time.time(), estimate=0) as admission:
            return await self._files.answer(request, key, body, {**admission.headers, REQUEST_ID: request_id})

    async def _take_feedback(self, request: web.BaseRequest, key: Key) -> web.Response:
        with self._bodies.held(key.namespace) as body, self._limiter.admit(key, time.time(), estimate=0) as admission:
            feedback = read_feedback(await _read_document(request, body))
            request_id, model = await find_model(feedback, key, self._records.ledger)
            answer = await keep_feedback(
                feedback, request_id, self._find_route(key, model), self._records.conversations
            )
        response = _json_response(answer)
        response.headers.update(admission.headers)
        return response

    async def _answer_jobs(
        self, request: web.BaseRequest, jobs: FineTuning, key: Key, request_id: str
    ) -> web.StreamResponse:
        with self._bodies.held(key.namespace) as body, self._limiter.admit(key, time.time(), estimate=0) as admission:
            if jobs.streams(request):
                headers = {**admission.headers, REQUEST_ID: request_id}
                return await jobs.stream(request, partial(self._authenticate, request), headers)
            answer: Callable[[], Coroutine[None, None, Json | web.Response]]
            if (take := jobs.find_with_body(request.method, request.path)) is not None:
                document = await _read_document(request, body)
                answer = partial(take, key, document, request_id, request.headers)
            else:
                answer = partial(jobs.find(request.method, request.path), key, request.query)
            waits = jobs.waits(request.path)
            result = await answer() if waits else await self._turns.take(key.namespace, answer)
        response = result if isinstance(result, web.Response) else _json_response(result)
        response.headers.update(admission.headers)
        return response

    async def _forward(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._proxy.forward(exchange)
        except ApiError as error:
            error.headers = {**exchange.headers, **error.headers}
            raise
        except Exception:
            exchange.record.write(exchange.tally.usage(), 500, Outcome.SERVER_FAILED)
            raise

    def _authenticate(self, request: web.BaseRequest) -> Key:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        headers = {"www-authenticate": "Bearer"}
        if scheme.lower() != "bearer" or not token.strip():
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            raise ApiError(401, message, code="missing_api_key", headers=headers)
        key = self._keys.find(token.strip())
        if key is None and not self._keys.is_complete:
            raise starting()  # the key may be right
        if key is None:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key", headers=headers)
        return key

    def _check(self, request: web.BaseRequest, model: str) -> None:
        self._find_route(self._authenticate(request), model)

    def _find_route(self, key: Key, model: str) -> Route:
        route = self._routes.find(key.namespace, model) if opens(key, model) else None
        if route is None and not self._routes.is_complete:
            raise starting()
        if route is None:
            raise model_not_found(model[:_LONGEST_NAME])
        return route

    def _answer_models(self, key: Key, name: str) -> web.Response:
        if name:
            return _json_response(self._describe(self._find_route(key, name)))
        routes = [route for route in self._routes.of_namespace(key.namespace) if opens(key, route.model)]
        return _json_response({"object": "list", "data": [self._describe(route) for route in routes]})

    def _describe(self, route: Route) -> dict[str, object]:
        return {"id": route.model, "object": "model", "created": self._started, "owned_by": route.namespace}

    def _refuse(self, error: ApiError) -> web.Response:
        self._metrics.count_error(error.code or error.type)
        return web.Response(
            status=error.status, body=error.body(), headers=error.headers, content_type="application/json"
        )


def _affinity(key: Key, call: Call) -> str:
    """Return the text that requests share when they share a beginning. Keys share no cache, so nobody can probe it."""
    return "\0".join((key.namespace, key.name, call.model, call.beginning)) if call.beginning else ""


async def _read_document(request: web.BaseRequest, body: HeldBody) -> Json:
    """Return the body of a request that is validated as a whole.

    Raises:
        ApiError: 413 when it is too large, 400 when it has too many values or is no JSON object.
    """
    content = await body.read(request, _DOCUMENT_BYTES)
    if most_values(content) > _DOCUMENT_VALUES:
        raise ApiError(400, f"the body has more than {_DOCUMENT_VALUES:,} values")
    document = parse_body(content)
    require_few_fields(document)
    return document


def _require(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        message = f"Not allowed to {request.method[:20]} on {request.path[:_LONGEST_NAME]}."
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": method})


def _json_response(document: object) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


def _place(error: BaseException) -> str:
    """Return where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
