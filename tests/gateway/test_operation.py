"""The page of metrics: made once for all who ask, beside the requests, and without models that are long gone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from aiohttp import test_utils
from prometheus_client import Gauge, generate_latest
from support.gateway import route

from rft_gateway import operation as operation_module
from rft_gateway.demand import Demand
from rft_gateway.metrics import KEPT_SECONDS, Metrics
from rft_gateway.operation import METRICS, Operation
from rft_gateway.routes import RouteTable
from rft_gateway.usage import Usage


def use(metrics: Metrics, *models: str) -> None:
    for model in models:
        metrics.count_request(route(model), "Answered", 200, 1.0)
        metrics.count_usage(route(model), Usage(1, 0, 1))
        metrics.observe_first_token(route(model), 1.0)
        metrics.count_cold_start("team", model, "Started")


def models_of(metrics: Metrics) -> set[str]:
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return {sample.labels["model"] for sample in samples if "model" in sample.labels}


def test_series_of_a_model_that_was_deleted_end():
    metrics = Metrics()
    use(metrics, "kept", "gone")
    kept = {("team", "kept")}
    metrics.keep_only(kept, now=100.0)
    metrics.keep_only(kept, now=100.0 + KEPT_SECONDS - 1)
    assert models_of(metrics) == {"kept", "gone"}
    metrics.keep_only(kept, now=100.0 + KEPT_SECONDS)
    assert models_of(metrics) == {"kept"}
    use(metrics, "gone")
    assert models_of(metrics) == {"kept", "gone"}


def test_series_of_a_model_that_is_there_again_stay():
    metrics = Metrics()
    use(metrics, "m")
    metrics.keep_only(set(), now=0.0)
    metrics.keep_only({("team", "m")}, now=KEPT_SECONDS - 1)
    metrics.keep_only(set(), now=KEPT_SECONDS + 1)
    assert models_of(metrics) == {"m"}


def test_the_page_is_made_once_for_all_who_ask_and_beside_the_requests(monkeypatch: pytest.MonkeyPatch):
    metrics, routes = Metrics(), RouteTable()
    use(metrics, "m")
    Gauge("rft_gateway_budget_used_ratio", "share", registry=metrics.budgets).set(0.5)
    threads: list[threading.Thread] = []

    def generate(registry: object) -> bytes:
        if registry is metrics.registry:
            threads.append(threading.current_thread())
        return generate_latest(registry)  # type: ignore[arg-type]

    monkeypatch.setattr(operation_module, "generate_latest", generate)
    operation = Operation(metrics, Demand(), lambda: True, routes)

    async def scenario() -> list[bytes]:
        answers = await asyncio.gather(
            *(operation.respond(test_utils.make_mocked_request("GET", METRICS)) for _ in range(5))
        )
        return [answer.body for answer in answers]  # type: ignore[attr-defined]

    pages = asyncio.run(scenario())
    assert len(set(pages)) == 1
    assert b"rft_gateway_budget_used_ratio 0.5" in pages[0]
    assert b'rft_gateway_requests_total{code="200",model="m"' in pages[0]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
