"""Answers those who operate the gateway, at a port of its own: clients need not see who uses what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rft_api.gateway_demand import DEMAND_PATH
from rft_gateway.demand import Demand
from rft_gateway.metrics import Metrics
from rft_gateway.routes import RouteTable

HEALTH = "/healthz"
READINESS = "/readyz"
METRICS = "/metrics"


class Operation:
    """The HTTP application.

    Args:
        metrics: the metrics.
        demand: what endpoints are asked for.
        is_ready: returns whether new requests should come.
        routes: the models.
    """

    def __init__(self, metrics: Metrics, demand: Demand, is_ready: Callable[[], bool], routes: RouteTable):
        self._metrics = metrics
        self._demand = demand
        self._is_ready = is_ready
        self._routes = routes
        self._page: asyncio.Task[bytes] | None = None

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        if request.path == METRICS:
            body = await self._make_page()
            return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})
        if request.path == DEMAND_PATH:
            report = self._demand.report().model_dump_json(by_alias=True)
            return web.Response(text=report, content_type="application/json")
        if request.path == HEALTH:
            return web.Response(text="ok\n")
        if request.path == READINESS:
            is_ready = self._is_ready()
            return web.Response(status=200 if is_ready else 503, text="ok\n" if is_ready else "starting or stopping\n")
        return web.Response(status=404, text=f"there are {METRICS}, {DEMAND_PATH}, {HEALTH} and {READINESS}\n")

    async def _make_page(self) -> bytes:
        """Return the page of metrics. All who ask meanwhile get the same one: thousands of models take seconds."""
        if self._page is None or self._page.done():
            self._page = asyncio.create_task(self._write_page())
        return await asyncio.shield(self._page)

    async def _write_page(self) -> bytes:
        self._metrics.keep_only(self._routes.names())
        # What belongs to the event loop is read here, and of a bounded size; the rest is written beside it.
        budgets = generate_latest(self._metrics.budgets)
        return budgets + await asyncio.to_thread(generate_latest, self._metrics.registry)
