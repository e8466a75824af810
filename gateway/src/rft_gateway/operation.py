"""Answers those who operate the gateway, at a port of its own: clients need not see who uses what."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from rft_api.gateway_demand import DEMAND_PATH
from rft_gateway.demand import Demand
from rft_gateway.metrics import Metrics

HEALTH = "/healthz"
READINESS = "/readyz"
METRICS = "/metrics"


class Operation:
    """The HTTP application.

    Args:
        metrics: the metrics.
        demand: what endpoints are asked for.
        is_ready: returns whether new requests should come.
    """

    def __init__(self, metrics: Metrics, demand: Demand, is_ready: Callable[[], bool]):
        self._metrics = metrics
        self._demand = demand
        self._is_ready = is_ready

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request."""
        if request.path == METRICS:
            body = generate_latest(self._metrics.registry)
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
