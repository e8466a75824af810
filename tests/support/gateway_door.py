"""The door of a gateway in the process of a test, which holds its parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from rft_gateway.demand import Demand
from rft_gateway.door import Door
from rft_gateway.keys import KeyRing
from rft_gateway.large_bodies import LargeBodies
from rft_gateway.ledger import Ledger
from rft_gateway.limits import Limiter
from rft_gateway.logs import Conversations, Stores
from rft_gateway.metrics import Metrics
from rft_gateway.proxy import Proxy
from rft_gateway.records import Records
from rft_gateway.replicas import Replicas
from rft_gateway.routes import RouteTable
from rft_gateway.traces import Traces
from rft_gateway.waiting import Waiting
from support.patience import PATIENCE_SECONDS


@contextlib.asynccontextmanager
async def door_in_process(
    routes: RouteTable, keys: KeyRing, ledger: Ledger, traces: Traces | None = None
) -> AsyncIterator[tuple[str, Demand]]:
    """Opens a door; yields its address, and what counts its requests."""
    metrics, demand = Metrics(), Demand()
    conversations = Conversations(None, Stores(), metrics, segment_seconds=1.0)
    waiting = Waiting(routes, demand, metrics)
    replicas = Replicas(time.monotonic)
    async with LargeBodies() as large, Proxy(replicas, waiting, large, PATIENCE_SECONDS) as proxy:
        records = Records(ledger, metrics, conversations, traces)
        door = Door(routes, keys, Limiter(time.time()), records, proxy, large, files=None, jobs=None)
        runner = web.ServerRunner(web.Server(door.respond))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", demand
        finally:
            await runner.cleanup()
            await records.close()
