"""A namespace whose objects take too much memory: the operator stops there, and nowhere else, until there is room."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import Any

import httpx
import pytest
from lives import job
from prometheus_client import generate_latest
from recording_cluster import RecordingCluster
from worlds_from_yaml import FIRST_START, SETTINGS, read_case

from rft_operator.kube.kinds import RFT_JOB
from rft_operator.kube.store import ALLOWANCE_BYTES, ENTRY_BYTES, Key, Store
from rft_operator.pods.gateways import Gateways
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.reconcile import problem
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.reconciler import Reconciler
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES

KIB = 1024
NOISE = base64.b85encode(random.Random(0).randbytes(200 * KIB)).decode()


def large(name: str, version: int, size: int, namespace: str = "full", kind: str = "RFTJob", uid: str = "") -> Any:
    """An object that takes about so much memory."""
    labels = {} if kind == "RFTJob" else RFT_JOB.child_labels("job-0")
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"{namespace}-{name}", "labels": labels}
    metadata["resourceVersion"] = str(version)
    start = random.Random(f"{name} {version}").randrange(50 * KIB)
    content = NOISE[start : start + int(size * 1.2)]
    if kind != "RFTJob":
        return {"kind": kind, "metadata": metadata, "data": {"a": content}}
    manifest = job(compute={"pod": {"env": [{"name": "A", "value": content}]}})
    return {"apiVersion": "rft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": manifest["spec"]}


def names(store: Store, count: int) -> list[int]:
    return [n for n in range(count) if store.get(Key("RFTJob", "full", f"job-{n}")) is not None]


def test_what_exceeds_the_allowance_is_left_out():
    store = Store({}, allowance=100 * KIB)
    for n in range(20):
        assert store.put("RFTJob", large(f"job-{n}", n + 1, 20 * KIB))
        assert store.put("RFTJob", large(f"job-{n}", n + 1, 20 * KIB, namespace=f"other-{n}"))
    assert names(store, 20) == [0, 1, 2, 3]
    assert sum(store.sizes().values()) < 600 * KIB
    assert store.sizes()["full"] <= 100 * KIB
    assert [store.is_full(namespace) for namespace in ("full", "other-0", "unknown")] == [True, False, False]
    assert store.left_out(Key("RFTJob", "full", "job-7")) == "full-job-7"
    assert store.left_out(Key("RFTJob", "full", "job-0")) is None


def test_configurations_and_pods_of_a_namespace_count_too():
    store = Store({}, allowance=100 * KIB)
    for n in range(20):
        store.put("ConfigMap", large(f"map-{n}", n + 1, 20 * KIB, kind="ConfigMap"))
    assert store.is_full("full")
    assert store.sizes()["full"] <= 100 * KIB


def test_what_is_left_out_comes_back_when_there_is_room():
    store = Store({}, allowance=100 * KIB)
    jobs = [large(f"job-{n}", n + 1, 20 * KIB) for n in range(5)]
    for each in jobs:
        store.put("RFTJob", each)
    assert names(store, 5) == [0, 1, 2, 3]
    assert store.put("RFTJob", jobs[4])  # listed again
    assert store.is_full("full")
    store.remove("RFTJob", jobs[0])
    assert store.is_full("full")
    older = {**jobs[4]["metadata"], "resourceVersion": "4"}
    assert not store.put("RFTJob", {**jobs[4], "metadata": older})
    assert store.put("RFTJob", jobs[4])
    assert not store.is_full("full")
    assert names(store, 5) == [1, 2, 3, 4]
    for each in jobs[1:]:
        store.remove("RFTJob", each)
    assert store.sizes() == {}


def test_an_object_that_grows_too_large_is_left_out_and_forgotten_when_it_is_deleted():
    store = Store({}, allowance=100 * KIB)
    assert store.put("RFTJob", large("job-0", 1, KIB))
    assert store.put("RFTJob", large("job-0", 2, 120 * KIB))
    assert names(store, 1) == []
    assert store.is_full("full")
    assert store.sizes() == {}
    store.remove("RFTJob", large("job-0", 3, KIB, uid="an earlier one"))
    assert store.is_full("full")
    store.remove("RFTJob", large("job-0", 3, KIB))
    assert not store.is_full("full")


def test_what_a_complete_list_lacks_is_no_longer_left_out():
    store = Store({}, allowance=100 * KIB)
    store.put("RFTJob", large("job-0", 5, 120 * KIB))
    store.put("RFTJob", large("job-1", 20, 120 * KIB))
    for kind, namespace, version in (("ConfigMap", None, 10), ("RFTJob", "other", 10), ("RFTJob", "full", 4)):
        assert store.prune(kind, namespace, set(), version) == []
        assert store.left_out(Key("RFTJob", "full", "job-0"))
    store.prune("RFTJob", None, set(), 10)
    assert store.left_out(Key("RFTJob", "full", "job-0")) is None
    assert store.left_out(Key("RFTJob", "full", "job-1"))


@pytest.mark.parametrize("seed", range(5))
def test_sizes_are_those_of_what_is_stored(seed):
    choose, store = random.Random(seed), Store({}, allowance=300 * KIB)
    for version in range(1, 400):
        each = large(f"job-{choose.randrange(20)}", version, choose.choice([KIB, 20 * KIB, 90 * KIB]))
        (store.remove if choose.random() < 0.3 else store.put)("RFTJob", each)
        store._tombstones.clear()
        entries = [entry for key, entry in store._entries.items() if key.namespace == "full"]
        assert store.sizes().get("full", 0) == sum(len(entry.packed) + ENTRY_BYTES for entry in entries) <= 300 * KIB
        assert not store._left_out["full"].keys() & store._entries.keys() if store.is_full("full") else True


def test_usual_namespaces_are_far_from_full():
    router = Router(RESOURCES)
    objects = read_case(FIRST_START.parent / "job-running.yaml")["objects"]
    for n in range(100):
        for obj in objects:
            metadata = obj["metadata"]
            changes = {"name": f"{metadata['name']}-{n}", "uid": f"{metadata['uid']}-{n}"}
            router.store.put(obj["kind"], {**obj, "metadata": {**metadata, **changes}})
    assert router.store.sizes()["team"] < ALLOWANCE_BYTES / 200


def reconcile(router: Router, cluster: Any, key: Key) -> float | None:
    async def once() -> float | None:
        async with httpx.AsyncClient() as client:
            limits, metrics = Limits(), Metrics(RESOURCES)
            pods, gateways = PodClient(client, limits), Gateways(client, (), limits, lambda _: None)
            metrics.observe(router.store)
            assert b'rft_operator_namespace_bytes{namespace="team"}' in generate_latest(metrics.registry)
            reconciler = Reconciler(RESOURCES, cluster, pods, gateways, router, lambda _: None, metrics, SETTINGS)
            return await reconciler.reconcile(key)

    return asyncio.run(once())


def test_nothing_is_planned_in_a_full_namespace_and_the_status_says_so():
    router, objects = Router(RESOURCES), read_case(FIRST_START)["objects"]
    for obj in objects:
        obj["spec"].setdefault("algorithm", "GRPO") if obj["kind"] == "RFTJob" else None
        router.store.put(obj["kind"], obj)
    left_out = Key("RFTJob", "team", "large")
    router.store._left_out["team"][left_out] = "uid-of-large", 50
    cluster = RecordingCluster(router.store)
    assert reconcile(router, cluster, Key("RFTJob", "team", "quickstart")) == problem.FULL_SECONDS
    assert [what for what, _ in cluster.sent] == ["RFTJob/status", "Event"]
    (condition,) = cluster.sent[0][1]["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Succeeded", "Unknown", "NamespaceFull")
    assert "more than 128 MiB of the operator's memory" in condition["message"]
    assert reconcile(router, cluster, left_out) is None
    event = cluster.sent[-1][1]
    assert (event["reason"], event["regarding"]["name"], event["regarding"]["uid"]) == (
        "NamespaceFull", "large", "uid-of-large",
    )  # fmt: skip
    del router.store._left_out["team"]
    assert reconcile(router, cluster, Key("RFTJob", "team", "quickstart")) != problem.FULL_SECONDS
    assert {"ConfigMap", "Job"} <= {what for what, _ in cluster.sent}


def test_a_job_that_has_ended_keeps_its_status_in_a_full_namespace():
    router, case = Router(RESOURCES), read_case(FIRST_START.parent / "job-ended.yaml")
    for obj in case["objects"]:
        obj["spec"]["algorithm"] = "GRPO"  # a default that the API server fills in
        router.store.put(obj["kind"], obj)
    key = Key(*case["of"].split("/"))
    router.store._left_out[key.namespace][Key("RFTJob", key.namespace, "large")] = "u", 50
    cluster = RecordingCluster(router.store)
    assert reconcile(router, cluster, key) == problem.FULL_SECONDS
    assert cluster.sent == []
