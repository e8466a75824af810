"""The HTTP server: scores, health, readiness and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import orjson
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from rft_api.constant_reward import python_sources
from rft_api.foreign import server_limits
from rft_api.readiness import READINESS_PATH, NotReady, NotReadyReason, Readiness
from rft_api.reward_function import RewardFunction
from rft_api.reward_protocol import SCORE_PATH, error_line
from rft_reward import acceptance
from rft_reward.bodies import Bodies, Busy
from rft_reward.connections import Connection, Server
from rft_reward.metrics import Metrics
from rft_reward.metrics_page import MetricsPage
from rft_reward.samples import BadRequest, TooLarge, read_samples
from rft_reward.scoring import Scoring, ScoringSettings

TEST_PAUSE_SECONDS = 5.0
"""Time after which failed tests are run again."""
RETRY_SECONDS = 1
"""Time after which a client is told to send a request again for which there is no room."""
_BUSY = (
    f"the samples of other requests take up to {server_limits.BODIES_BYTES >> 20} MiB, and leave no room for these: "
    "send them again in a second, or raise spec.replicas"
)
_STARTING = NotReady(reason=NotReadyReason.WORKERS_STARTING, message="the workers are starting")
_logger = logging.getLogger(__name__)


class RewardServer:
    """Scores samples with one RewardFunction."""

    def __init__(self, function: RewardFunction, settings: ScoringSettings, token: str | None):
        self._tests = function.spec.tests
        self._sources = python_sources(function.spec)
        self._by_group = function.spec.sees_groups
        self._token = None if token is None else token.encode()
        self._bodies = Bodies(server_limits.BODIES_BYTES)
        self._metrics = Metrics()
        self._page = MetricsPage(lambda: generate_latest(self._metrics.registry))
        self._scoring = Scoring(settings, self._metrics)
        self._test_failures: list[NotReady] | None = None
        """None until the tests have run."""

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route(SCORE_PATH, self._score, methods=["POST"]),
            Route("/healthz", self._health),
            Route(READINESS_PATH, self._readiness),
            Route("/metrics", self._show_metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        await self._scoring.start()
        tests = asyncio.create_task(self._run_tests())
        yield
        tests.cancel()
        await asyncio.gather(tests, return_exceptions=True)
        await self._scoring.close()

    async def _run_tests(self) -> None:
        await self._scoring.wait_started()
        while True:
            rows = (
                await self._scoring.score(acceptance.test_samples(self._tests, self._by_group)) if self._tests else []
            )
            failures = acceptance.failures(self._tests, rows, self._sources)
            if not failures:
                break
            for failure in failures:
                if failure not in (self._test_failures or []):
                    _logger.error("%s", failure.message)
            self._test_failures = failures
            await asyncio.sleep(TEST_PAUSE_SECONDS)  # a timeout on a busy node must not be final
        self._test_failures = []
        same = acceptance.same_reward(self._tests, rows, self._sources)
        if same is not None:
            _logger.warning("%s", same)
        _logger.info("ready: %d tests passed", len(self._tests))

    def _find_readiness(self) -> Readiness:
        """Return whether the server scores, and why not."""
        if self._test_failures is not None:
            return Readiness(reasons=self._test_failures)
        error = self._scoring.start_error
        if error is not None:
            return Readiness(reasons=[NotReady(reason=NotReadyReason.WORKERS_FAILING, message=error)])
        return Readiness(reasons=[_STARTING])

    async def _score(self, request: Request) -> Response:
        response = await self._answer(request)
        self._metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def _answer(self, request: Request) -> Response:
        if self._token is not None:
            authorization = request.headers.get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(authorization, b"Bearer " + self._token):
                return _problem(
                    401,
                    "the request needs the header `Authorization: Bearer TOKEN` with this server's token",
                    {"www-authenticate": "Bearer"},
                )
        readiness = self._find_readiness()
        if not readiness.ready:
            return _problem(503, readiness.message.replace("\n", "; "))
        with self._bodies.held() as take:
            try:
                samples = read_samples(await _read_body(request, take), self._by_group)
            except Busy:
                return _problem(503, _BUSY, {"retry-after": str(RETRY_SECONDS)})
            except BadRequest as error:
                return _problem(400, str(error))
            except TooLarge as error:
                return _problem(413, str(error))
            except ClientDisconnect:
                return _problem(400, "the client went away before the body ended")
            rows = await self._scoring.score(samples)
            return Response(orjson.dumps(rows), media_type="application/json")

    async def _health(self, request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def _readiness(self, request: Request) -> Response:
        readiness = self._find_readiness()
        status = 200 if readiness.ready else 503
        return Response(readiness.model_dump_json(exclude_none=True), status, media_type="application/json")

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._page.content(), headers={"content-type": CONTENT_TYPE_LATEST})


def serve(server: RewardServer, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Then finish the requests in flight, and end the workers."""
    config = uvicorn.Config(
        server.application(),
        http=Connection,
        ws="none",
        access_log=False,
        log_config=None,
        log_level="error",  # of lower levels are a line for each request that is no HTTP
        timeout_keep_alive=server_limits.KEEP_ALIVE_SECONDS,
        backlog=server_limits.BACKLOG,
    )
    asyncio.run(_Server(config).serve([listener]), debug=False)


class _Server(Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The method of uvicorn raises the signal again at the end, so that a requested end would look like a failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


async def _read_body(request: Request, take: Callable[[int], None]) -> bytearray:
    too_large = TooLarge(f"the body is larger than {server_limits.BODY_BYTES >> 20} MiB: send fewer samples at once")
    # uvicorn has checked that the value is a number.
    if int(request.headers.get("content-length", "0")) > server_limits.BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > server_limits.BODY_BYTES:
            raise too_large
        take(len(chunk))
        body += chunk
    return body


def _problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": error_line(message)}), status, headers, "application/json")
