"""The store: whatever order news come in, it ends with the newest."""

from __future__ import annotations

from typing import Any

from rft_operator.kube import kinds
from rft_operator.kube.store import Key, Store
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES


def obj(kind: str, name: str, version: int, uid: str = "u", labels: dict[str, str] | None = None, **rest: Any) -> Any:
    metadata = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), "labels": labels or {}}
    return {"kind": kind, "metadata": metadata, **rest}


def child(name: str, version: int, uid: str = "c", **rest: Any) -> Any:
    return obj("Pod", name, version, uid, kinds.RFT_JOB.child_labels("job"), **rest)


JOB = Key("RFTJob", "n", "job")
SPEC = {
    "data": {"train": [{"reward": "r"}]}, "shadowRewards": ["s"], "endpoint": {"name": "e", "baseEndpoint": "b"},
}  # fmt: skip


def test_older_versions_are_ignored():
    store = Store({})
    assert store.put("Pod", child("p", 5, status={"phase": "Running"}))
    assert not store.put("Pod", child("p", 4, status={"phase": "Pending"}))
    assert not store.put("Pod", child("p", 5))
    assert store.get(Key("Pod", "n", "p"))["status"] == {"phase": "Running"}


def test_a_deleted_object_does_not_come_back_from_an_older_list():
    store = Store({})
    store.put("Pod", child("p", 5))
    store.remove("Pod", child("p", 6))
    assert not store.put("Pod", child("p", 5))
    assert store.children(JOB, kinds.POD) == []
    assert store.put("Pod", child("p", 7, uid="another"))


def test_the_deletion_of_an_earlier_object_of_the_name_is_not_that_of_the_newer():
    store = Store({})
    store.put("Pod", child("p", 7, uid="newer"))
    store.remove("Pod", child("p", 6, uid="earlier"))
    assert store.version(Key("Pod", "n", "p")) == 7


def test_a_list_tells_what_was_deleted_unannounced():
    store = Store({})
    store.put("Pod", child("gone", 5))
    store.put("Pod", child("newer", 20, uid="d"))
    store.put("Pod", child("new", 9, uid="e"))
    (gone,) = store.prune("Pod", None, {Key("Pod", "n", "new")}, 10)
    assert gone["metadata"]["name"] == "gone"
    assert [pod["metadata"]["name"] for pod in store.children(JOB, kinds.POD)] == ["new", "newer"]


def test_a_list_of_one_namespace_tells_nothing_of_others():
    store = Store({})
    for name in ("n", "m"):
        store.put(
            "Pod", {**child("p", 5, uid=name), "metadata": {**child("p", 5, uid=name)["metadata"], "namespace": name}}
        )
    (gone,) = store.prune("Pod", "m", set(), 10)
    assert gone["metadata"]["namespace"] == "m"
    assert list(store.keys("Pod")) == [Key("Pod", "n", "p")]


def test_a_fingerprint_is_that_of_everything_but_the_status():
    store, key, applied = Store({}), Key("Deployment", "n", "p"), {"metadata": {}}
    store.put("Deployment", obj("Deployment", "p", 1, spec={"a": 1}, status={"x": 1}))
    first = store.fingerprint(key, applied)
    store.put("Deployment", obj("Deployment", "p", 2, spec={"a": 1}, status={"x": 2}))
    assert store.fingerprint(key, applied) == first
    store.put("Deployment", obj("Deployment", "p", 3, spec={"a": 2}))
    assert store.fingerprint(key, applied) != first


def woken(router: Router, kind: str, given: Any, type_: str = "MODIFIED") -> set[Key]:
    return set(router.store_event(kind, type_, given))


def test_whom_an_event_wakes():
    router = Router(RESOURCES)
    reward, base, endpoint = (
        Key(kind, "n", name)
        for kind, name in (("RewardFunction", "r"), ("InferenceEndpoint", "b"), ("InferenceEndpoint", "e"))
    )
    assert woken(router, "RFTJob", obj("RFTJob", "job", 1, spec=SPEC)) == {JOB}
    assert woken(router, "RewardFunction", obj("RewardFunction", "r", 2, "r")) == {reward, JOB}
    shadow = obj("RewardFunction", "s", 2, "shadow")
    assert woken(router, "RewardFunction", shadow) == {Key("RewardFunction", "n", "s"), JOB}
    assert woken(router, "InferenceEndpoint", obj("InferenceEndpoint", "b", 3, "b", spec={})) == {base, JOB}
    adapter = obj("InferenceEndpoint", "e", 4, "e", spec={"baseEndpoint": "b"})
    assert woken(router, "InferenceEndpoint", adapter) == {base, endpoint, JOB}
    assert woken(router, "InferenceEndpoint", adapter) == set()  # no news
    server = obj("Pod", "s", 5, "s", kinds.INFERENCE_ENDPOINT.child_labels("b"))
    assert woken(router, "Pod", server) == {base, endpoint, JOB}
    assert woken(router, "Pod", child("p", 6)) == {JOB}
    assert woken(router, "Pod", child("p", 7), "DELETED") == {JOB}
    assert woken(router, "InferenceEndpoint", {**adapter}, "DELETED") == {base, endpoint, JOB}


def test_a_job_that_has_ended_sleeps_when_its_rewards_change():
    router = Router(RESOURCES)
    ended = {"conditions": [{"type": "Succeeded", "status": "True"}]}
    woken(router, "RFTJob", obj("RFTJob", "job", 1, spec=SPEC, status=ended))
    assert woken(router, "RewardFunction", obj("RewardFunction", "r", 2, "r")) == {Key("RewardFunction", "n", "r")}


def test_what_was_written_wakes_others_than_the_writer():
    router = Router(RESOURCES)
    router.store.put("RFTJob", obj("RFTJob", "job", 1, spec=SPEC))
    reward = Key("RewardFunction", "n", "r")
    assert router.store_response(reward, obj("RewardFunction", "r", 2, "r")) == [JOB]
    assert woken(router, "RewardFunction", obj("RewardFunction", "r", 2, "r")) == set()


def test_annotations_of_tenants_are_neither_kept_nor_a_change():
    """A job can be annotated with 256 KiB, again and again."""
    store = Store({})
    job = obj("RFTJob", "job", 1, spec=SPEC)
    assert store.put("RFTJob", job)
    for version in range(2, 10):
        annotated = obj("RFTJob", "job", version, spec=SPEC)
        annotated["metadata"]["annotations"] = {"a": str(version) * (200 << 10)}
        assert not store.put("RFTJob", annotated)
        assert store.version(JOB) == version
    assert store.get(JOB) == {**job, "metadata": {**job["metadata"], "resourceVersion": "9"}}
    # Another object of the name is a change, though it looks the same.
    assert store.put("RFTJob", obj("RFTJob", "job", 11, uid="another", spec=SPEC))


def test_of_a_pod_is_kept_what_is_read():
    store, pod = Store({}), child("p", 1, status={"phase": "Pending"})
    pod["metadata"]["annotations"] = {"a": "x" * 1000}
    pod["spec"] = {
        "initContainers": [{"name": "proxy", "restartPolicy": "Always", "env": []}, {"name": "loader", "image": "i"}],
        "containers": [{"name": "c", "env": [{"name": "A", "value": "x" * 1000}]}],
    }
    store.put("Pod", pod)
    kept = store.get(Key("Pod", "n", "p"))
    assert kept["spec"] == {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}, {"name": "loader"}]}
    assert kept["status"] == {"phase": "Pending"}
    assert "annotations" not in kept["metadata"]


def test_annotations_of_children_are_kept():
    store, job = Store({}), obj("Job", "j", 1, labels=kinds.RFT_JOB.child_labels("job"), spec={})
    job["metadata"]["annotations"] = {"rft.dev/retries-before": "1"}
    store.put("Job", job)
    assert store.get(Key("Job", "n", "j")) == job


def test_of_the_annotations_of_an_endpoint_only_the_wake_is_kept_and_only_its_beginning():
    store, key = Store({}), Key("InferenceEndpoint", "n", "e")

    def put(version: int, **annotations: str) -> bool:
        endpoint = obj("InferenceEndpoint", "e", version)
        endpoint["metadata"]["annotations"] = {name.replace("_", "/"): text for name, text in annotations.items()}
        return store.put("InferenceEndpoint", endpoint)

    assert put(5, **{"rft.dev_wake": "2026-01-31T12:00:00Z", "their_note": "x" * 200_000})
    assert store.get(key)["metadata"]["annotations"] == {"rft.dev/wake": "2026-01-31T12:00:00Z"}
    assert not put(6, **{"rft.dev_wake": "2026-01-31T12:00:00Z", "their_note": "other"})
    applied = {"metadata": {"annotations": {"rft.dev/ours": "1"}}}
    fingerprint = store.fingerprint(key, applied)
    assert put(7, **{"rft.dev_wake": "x" * 200_000})
    assert store.get(key)["metadata"]["annotations"] == {"rft.dev/wake": "x" * 64}
    # What gateways write does not have the operator apply its own fields again.
    assert store.fingerprint(key, applied) == fingerprint
