"""Starts the gateway, and ends it on SIGTERM when everything that has begun is answered and recorded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import uvloop
from aiohttp import web

from rft_api.exit_codes import ExitCode
from rft_api.foreign import server_limits
from rft_api.foreign.logs import LineFormatter
from rft_api.ports import ListenError, listen, listener_url
from rft_api.readiness import format_address
from rft_gateway.budgets import Budgets
from rft_gateway.demand import Demand
from rft_gateway.door import Door
from rft_gateway.errors import ApiError
from rft_gateway.files.opening import OpenFiles, open_files
from rft_gateway.http_server import HttpServer
from rft_gateway.keys import KeyFolder, KeyRing
from rft_gateway.large_bodies import LargeBodies
from rft_gateway.ledger import Ledger, LedgerError, Total, TotalsQuery
from rft_gateway.limits import Limiter
from rft_gateway.logs import Conversations, Spool, SpoolError, Stores
from rft_gateway.metrics import Metrics
from rft_gateway.operation import Operation
from rft_gateway.proxy import Proxy
from rft_gateway.records import Records
from rft_gateway.replicas import Replicas
from rft_gateway.routes import RouteFile, RoutesError, RouteTable
from rft_gateway.settings import FileSettings, Settings, read_settings
from rft_gateway.tls import Certificate, CertificateError, TlsSite
from rft_gateway.waiting import Waiting, Wake

if TYPE_CHECKING:
    from rft_gateway.fine_tuning.routes import FineTuning
    from rft_gateway.fine_tuning.store import ClusterJobs
    from rft_gateway.traces import Traces

LINGERING_SECONDS = 2.0
"""Time in which the rest of a body is read after its request was refused, so that the client reads the answer."""
_DAY_SECONDS = 86_400
_RESTORE_SECONDS = 60.0
"""Time between two attempts to read what keys have used before the start."""


class StartError(Exception):
    """The gateway cannot start as it was told to; the message says what to correct."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway, and return its exit code: CONFIGURATION_INVALID if the user has to correct something."""
    settings = read_settings(arguments)
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[output])
    _allow_many_connections()
    try:
        uvloop.run(serve(settings))
    except (StartError, ListenError, RoutesError, LedgerError, SpoolError, CertificateError) as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIGURATION_INVALID
    return ExitCode.SUCCEEDED


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StartError, ListenError, RoutesError, LedgerError, SpoolError, CertificateError: when it cannot start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    replicas = Replicas(time.monotonic)
    routes, keys, demand = RouteTable(), KeyRing(), Demand()
    routes.call_on_change(lambda table: replicas.keep_only(table.servers()))
    routes.call_on_change(demand.keep_only)
    async with contextlib.AsyncExitStack() as stack:
        traces = _open_traces(stack) if settings.traces else None
        stores = Stores()
        follow, wake, jobs_store = await _open_source(stack, settings, routes, keys, stores)
        ledger = Ledger(settings.ledger)
        await ledger.prepare()
        stack.push_async_callback(ledger.close)
        limiter = Limiter(time.time())
        await _restore(stack, limiter, ledger, stop)
        metrics = Metrics()
        metrics.budgets.register(Budgets(keys, limiter))
        conversations = Conversations(_spool(settings), stores, metrics, settings.log_seconds)
        await conversations.start()
        stack.push_async_callback(conversations.close)
        records = Records(ledger, metrics, conversations, traces)
        waiting = Waiting(routes, demand, metrics, wake)
        large_bodies = await stack.enter_async_context(LargeBodies())
        proxy = await stack.enter_async_context(Proxy(replicas, waiting, large_bodies, settings.answer_seconds))
        _run_beside(stack, follow(), stop)
        files = await _open_files(stack, settings.files, ledger)
        api = files.api if files is not None else None
        jobs = _open_jobs(jobs_store, files, stop) if jobs_store is not None else None
        if jobs is not None:
            _run_beside(stack, jobs.sweep(settings.namespaces), stop)
        door = Door(routes, keys, limiter, records, proxy, large_bodies, api, jobs)
        operation = Operation(
            metrics, demand, lambda: routes.is_complete and keys.is_complete and not stop.is_set(), routes
        )
        await _listen(settings, door, operation, stop, waiting)
        await records.close()


async def _open_source(
    stack: contextlib.AsyncExitStack, settings: Settings, routes: RouteTable, keys: KeyRing, stores: Stores
) -> tuple[Callable[[], Coroutine[None, None, None]], Wake | None, ClusterJobs | None]:
    """Open what models and keys come from; return what follows it, what wakes endpoints there, and where jobs are."""
    if settings.kubernetes:
        # The client of Kubernetes takes a second to import, which would be for nothing on one machine.
        from rft_gateway.cluster.source import ClusterError, open_cluster

        try:
            cluster = await stack.enter_async_context(open_cluster(settings.namespaces, routes, keys, stores))
        except ClusterError as error:
            raise StartError(str(error)) from None
        if not settings.fine_tuning:
            return cluster.follow, cluster.wake, None
        from rft_gateway.fine_tuning.store import ClusterJobs

        return cluster.follow, cluster.wake, ClusterJobs(cluster.server)
    assert settings.routes is not None  # the settings have one of both
    assert settings.keys is not None
    file = RouteFile(settings.routes, routes)
    file.load()
    if settings.spool is None and routes.keep_logs():
        raise StartError(f"--spool: name a folder, because models of {settings.routes} have logs")
    try:
        folder = KeyFolder(settings.keys, keys)
    except OSError as error:
        raise StartError(f"--keys {settings.keys}: {error.strerror}") from None

    async def follow() -> None:
        await asyncio.gather(file.follow(), folder.watch())

    return follow, None, None


async def _open_files(
    stack: contextlib.AsyncExitStack, settings: FileSettings | None, ledger: Ledger
) -> OpenFiles | None:
    if settings is None:
        return None
    try:
        return await stack.enter_async_context(open_files(settings, ledger.engine))
    except OSError as error:
        raise StartError(f"--files: {error.filename or settings.uri}: {error.strerror}") from None
    except ApiError as error:
        raise StartError(f"--files: {error}") from None


def _open_jobs(store: ClusterJobs, files: OpenFiles | None, stop: asyncio.Event) -> FineTuning:
    # The models of manifests take a fifth of a second to import, which most gateways would do for nothing.
    from rft_gateway.fine_tuning.routes import FineTuning

    return FineTuning(store, files.catalog if files is not None else None, stop)


def _open_traces(stack: contextlib.AsyncExitStack) -> Traces:
    # OpenTelemetry takes half a second to import, which would be for nothing without an endpoint.
    from rft_gateway.traces import Traces

    try:
        traces = Traces()
    except (OSError, ValueError) as error:
        raise StartError(f"an environment variable of OpenTelemetry is wrong: {error}") from None
    stack.callback(traces.close)
    return traces


def _spool(settings: Settings) -> Spool | None:
    return None if settings.spool is None else Spool(settings.spool, settings.spool_bytes)


def _run_beside(stack: contextlib.AsyncExitStack, work: Coroutine[None, None, None], stop: asyncio.Event) -> None:
    """Do work until the end of the stack. If it fails, the gateway stops: it would not know what has changed."""

    def note(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logging.error("stopping, because of an error of the program", exc_info=error)
            stop.set()

    task = asyncio.create_task(work)
    task.add_done_callback(note)
    stack.callback(task.cancel)


async def _listen(settings: Settings, door: Door, operation: Operation, stop: asyncio.Event, waiting: Waiting) -> None:
    """Answer requests until it is time to stop, and then those that have begun."""
    clients = HttpServer(
        door.respond,
        handler_cancellation=True,  # a client that leaves cancels its request
        keepalive_timeout=server_limits.KEEP_ALIVE_SECONDS,
        lingering_time=LINGERING_SECONDS,
    )
    operators = HttpServer(operation.respond, keepalive_timeout=server_limits.SMALL_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        # The port for operators closes last: it says that the gateway is stopping.
        if settings.operation_port is not None:
            await _start(stack, operators, settings.operation_host, settings.operation_port, drain_seconds=0.0)
        context = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            certificate = Certificate(settings.tls_certificate, settings.tls_key)
            _run_beside(stack, certificate.follow(), stop)
            context = certificate.context
        address = await _start(stack, clients, settings.host, settings.port, settings.drain_seconds, context)
        print(format_address(address), flush=True)
        await stop.wait()
        logging.info("stopping: answering what has begun")
        waiting.stop()


async def _start(
    stack: contextlib.AsyncExitStack,
    server: web.Server,
    host: str,
    port: int,
    drain_seconds: float,
    context: ssl.SSLContext | None = None,
) -> str:
    listener = listen(host, port)
    runner = web.ServerRunner(server, shutdown_timeout=drain_seconds)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.SockSite if context is None else TlsSite
    await site(runner, listener, backlog=server_limits.BACKLOG, ssl_context=context).start()
    url = listener_url(listener)
    return url if context is None else url.replace("http:", "https:", 1)


async def _restore(stack: contextlib.AsyncExitStack, limiter: Limiter, ledger: Ledger, stop: asyncio.Event) -> None:
    """Have the limits of days and months count what was used before the start.

    If the ledger cannot say it, the gateway starts all the same: answers to all tenants must not depend on what one of
    them has put there. It tries again beside, and what it learns then counts from then on.
    """
    start = datetime.now(UTC)

    async def restore() -> bool:
        try:
            limiter.restore(_tokens_of_days(await _totals_of_month(ledger, start)))
        except LedgerError as error:
            logging.error("limits of days and months do not count what was used before the start: %s", error)
            return False
        return True

    async def go_on() -> None:
        await asyncio.sleep(_RESTORE_SECONDS)
        while not await restore():
            await asyncio.sleep(_RESTORE_SECONDS)

    if not await restore():
        _run_beside(stack, go_on(), stop)


async def _totals_of_month(ledger: Ledger, end: datetime) -> list[Total]:
    """Return what was used in the month until a time, so that what is counted from then on is not counted twice."""
    start = end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return await ledger.totals(TotalsQuery(start, end, ("namespace", "key"), _DAY_SECONDS))


def _tokens_of_days(totals: list[Total]) -> Iterator[tuple[str, str, date, int]]:
    """Yield what keys have used before this start, as their limits of days and months count it."""
    for total in totals:
        day = datetime.fromtimestamp(total.time, UTC).date()
        yield str(total.namespace), str(total.key), day, total.prompt_tokens + total.completion_tokens


def _allow_many_connections() -> None:
    """Use as many files as the system allows: a stream takes two, one to its client and one to its server."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
