"""Reconciliations of a job over an API server that is a dictionary, and the writes of each."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from recording_cluster import RecordingCluster
from worlds_from_yaml import FIRST_START, SETTINGS, read_case, router_of

from rft_operator.kube.store import Key
from rft_operator.pods.gateways import Gateways
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.reconciler import Reconciler
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES

JOB = Key("RFTJob", "team", "quickstart")


@pytest.fixture
def router() -> Router:
    """An RFTJob that can start."""
    reward, job = read_case(FIRST_START)["objects"]
    job["spec"]["algorithm"] = "GRPO"  # a default that the API server fills in
    return router_of([reward, job])


def run(router: Router, cluster: Any, times: int) -> list[float | None]:
    """Runs passes over the job; returns when each wants the next."""

    async def passes() -> list[float | None]:
        async with httpx.AsyncClient() as client:
            limits, metrics = Limits(), Metrics(RESOURCES)
            pods, gateways = PodClient(client, limits), Gateways(client, (), limits, lambda _: None)
            reconciler = Reconciler(RESOURCES, cluster, pods, gateways, router, lambda _: None, metrics, SETTINGS)
            return [await reconciler.reconcile(JOB) for _ in range(times)]

    return asyncio.run(passes())


def test_the_first_status_waits_for_a_look_at_what_was_just_made(router):
    cluster = RecordingCluster(router.store)
    assert run(router, cluster, 1) == [0]
    assert [what for what, _ in cluster.sent] == ["ConfigMap", "Job"]
    # Nothing has become of it yet; that is said, too, and once.
    run(router, cluster, 2)
    assert [what for what, _ in cluster.sent[2:]] == ["RFTJob/status", "Event"]
    conditions = {c["type"]: c["reason"] for c in cluster.sent[2][1]["status"]["conditions"]}
    assert conditions["Succeeded"] == "Starting"


def test_a_job_of_which_something_was_said_says_at_once_that_it_starts(router):
    waiting = router.store.get(JOB)
    waiting["metadata"]["resourceVersion"] = "12"
    waiting["status"] = {"conditions": []}
    router.store.put("RFTJob", waiting)
    cluster = RecordingCluster(router.store)
    run(router, cluster, 1)
    assert [what for what, _ in cluster.sent] == ["ConfigMap", "Job", "RFTJob/status", "Event"]


def test_a_stored_job_with_a_value_that_is_no_longer_allowed_names_it_and_starts_when_it_is_corrected(router):
    """The engine InProcess was called Transformers before, and API servers have stored that as the default."""
    stored = router.store.get(JOB)
    stored["spec"]["compute"]["rollouts"] = {"engine": "Transformers"}
    stored["metadata"]["resourceVersion"] = "12"
    router.store.put("RFTJob", stored)
    cluster = RecordingCluster(router.store)
    assert run(router, cluster, 1) == [15]
    assert [what for what, _ in cluster.sent] == ["RFTJob/status", "Event"]
    (condition,) = cluster.sent[0][1]["status"]["conditions"]
    assert (condition["type"], condition["reason"]) == ("Succeeded", "ConfigurationInvalid")
    assert condition["message"] == 'spec.compute.rollouts.engine: must be one of vLLM, InProcess, not "Transformers"'
    stored["spec"]["compute"]["rollouts"]["engine"] = "InProcess"
    stored["metadata"]["resourceVersion"] = "2000"  # after those of the writes
    router.store.put("RFTJob", stored)
    run(router, cluster, 1)
    assert "Job" in [what for what, _ in cluster.sent]
