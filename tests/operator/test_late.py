"""Objects that wait for pods or containers without a reason in a status, and what events say about them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from views import FUNCTION, NOW, OWN, ago, deployment, pod
from worlds_from_yaml import SETTINGS

from rft_api.conditions import Reason
from rft_api.rft_job import Limits
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld
from rft_operator.kube.cluster import Unavailable
from rft_operator.pods.deployment_view import read_deployment
from rft_operator.pods.late import Awaited, awaited_pods, late_uids, newest_warning, read_warnings, seconds_to_look
from rft_operator.reward_function.plan import plan_reward_function
from rft_operator.reward_function.world import RewardFunctionWorld
from rft_operator.rft_job.attempts import Attempt, Outcome
from rft_operator.rft_job.run_state import RunFacts, awaited_objects, decide_run_state

QUOTA = 'pods "x" is forbidden: exceeded quota: gpus'
PENDING = pod(phase="Pending", ready=False, running_since=None, started=False)
"""A pod that a node has accepted 100 seconds ago, and none of whose containers has started."""


def event(reason: str, seconds: float, type_: str = "Warning", controller: str = "kubelet") -> dict[str, Any]:
    time = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"creationTimestamp": time},
        "type": type_,
        "reason": reason,
        "note": f"of {reason}",
        "reportingController": controller,
        "deprecatedLastTimestamp": time,
    }


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([], None),
        ([event("Scheduled", 50, "Normal", "default-scheduler")], None),
        ([event("FailedMount", 10), event("FailedMount", 40)], "FailedMount: of FailedMount"),
        ([event("FailedCreatePodSandBox", 5), event("FailedMount", 40)], "FailedCreatePodSandBox: of Failed"),
        # What a later event of the same controller shows to be past.
        ([event("FailedMount", 40), event("Pulling", 10, "Normal")], None),
        ([event("FailedMount", 40), event("Pulling", 40, "Normal")], None),
        ([event("FailedCreate", 9, controller="job-controller"), event("Pulling", 3, "Normal")], "FailedCreate: of"),
        (
            [
                event("FailedScheduling", 40, controller="default-scheduler"),
                event("Scheduled", 30, "Normal", "default-scheduler"),
            ],
            None,
        ),
        # The older form, and a series of the newer form.
        (
            [{**event("FailedMount", 40), "reportingController": "", "deprecatedSource": {"component": "kubelet"}}],
            "FailedMount: of",
        ),
        (
            [
                event("Pulling", 20, "Normal"),
                {
                    **event("FailedMount", 40),
                    "deprecatedLastTimestamp": None,
                    "eventTime": "2026-01-31T11:59:00.000001Z",
                    "series": {"count": 4, "lastObservedTime": "2026-01-31T11:59:59.500000Z"},
                },
            ],
            "FailedMount: of",
        ),
    ],
)
def test_the_newest_warning_that_is_not_past(events, text):
    found = newest_warning(events)
    assert (found is None) is (text is None)
    assert (found or "").startswith(text or "")


def test_events_are_read_less_often_the_longer_an_object_is_late():
    looks, elapsed = [], 0.0
    for _ in range(8):
        elapsed += seconds_to_look([Awaited("uid", NOW)], NOW + timedelta(seconds=elapsed)) or 0
        looks.append(elapsed)
    assert looks == [20, 40, 80, 160, 320, 620, 920, 1220]
    assert seconds_to_look([], NOW) is None


@pytest.mark.parametrize(
    ("seen", "awaited"),
    [
        (PENDING, True),
        (replace(PENDING, start_time=None, created_at=ago(100)), True),
        (replace(PENDING, started=True), False),
        (replace(PENDING, deleting=True), False),
        (replace(PENDING, problem=(Reason.UNSCHEDULABLE, "no room")), False),
        (replace(PENDING, phase="Running"), False),
    ],
)
def test_a_pod_whose_containers_do_not_start_without_a_reason(seen, awaited):
    assert bool(late_uids(awaited_pods([seen]), NOW)) is awaited
    assert late_uids(awaited_pods([replace(seen, start_time=ago(19), created_at=ago(19))]), NOW) == []


def attempt(**changes: Any) -> Attempt:
    fields: dict[str, Any] = {
        "name": "job-0", "uid": "uid-0", "number": 0, "retries_before": 0, "waiting_in_queue": False,
        "deleting": False, "outcome": Outcome.UNFINISHED, "ended_at": None, "failure_text": "", "started_at": ago(100),
    }  # fmt: skip
    return Attempt(**{**fields, **changes})


def state(newest: Attempt, pods: list[Any], warnings: dict[str, str]) -> tuple[Reason, str]:
    facts = RunFacts(
        suspend=False, limits=Limits(), attempts=[newest], pods=pods, progress=None, start_time=None, gpu_seconds=0,
        blocked=None, now=NOW, warnings=warnings,
    )  # fmt: skip
    found = decide_run_state(facts)
    return found.reason, found.message


REFUSED = {"uid-0": f"FailedCreate: {QUOTA}"}


def test_a_job_whose_pods_are_refused():
    assert state(attempt(), [], REFUSED) == (Reason.PODS_MISSING, f"0 of 1 pods exist: FailedCreate: {QUOTA}")
    # Only some of them.
    text = f"1 of 2 pods exist: FailedCreate: {QUOTA}"
    assert state(attempt(pods=2), [pod()], REFUSED) == (Reason.PODS_MISSING, text)
    # Kubernetes keeps events for an hour.
    assert state(attempt(), [], {}) == (Reason.PODS_MISSING, "0 of 1 pods exist: no event says why")


@pytest.mark.parametrize(
    ("newest", "pods", "reason"),
    [
        (attempt(started_at=ago(19)), [], Reason.STARTING),
        (attempt(started_at=None), [], Reason.STARTING),
        (attempt(waiting_in_queue=True), [], Reason.QUEUED),
        (attempt(), [pod()], Reason.RUNNING),
        # A pod is gone because its Job is failing.
        (attempt(pods=2, ending=True), [pod()], Reason.RUNNING),
        (attempt(), [pod(problem=(Reason.UNSCHEDULABLE, "no room"))], Reason.UNSCHEDULABLE),
    ],
)
def test_a_job_whose_pods_are_not_missing(newest, pods, reason):
    assert state(newest, pods, {})[0] == reason
    assert newest.uid not in late_uids(awaited_objects(newest, pods), NOW)


def test_a_trainer_whose_volume_cannot_be_mounted():
    warnings = {"uid-of-pod": 'FailedMount: configmap "data" not found'}
    blocked = (Reason.CONTAINER_BLOCKED, 'pod pod: FailedMount: configmap "data" not found')
    assert state(attempt(), [PENDING], warnings) == blocked
    assert state(attempt(), [PENDING], {})[0] is Reason.STARTING


STATUS = {"observedGeneration": 1, "conditions": [
    {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
]}  # fmt: skip


def test_a_deployment_says_why_it_has_no_pods():
    spec = {"metadata": {"generation": 1}, "spec": {}}
    assert read_deployment({**spec, "status": STATUS}).failure == f"FailedCreate: {QUOTA}"
    past = {**STATUS, "conditions": [{**STATUS["conditions"][0], "status": "False"}]}  # type: ignore[index]
    assert read_deployment({**spec, "status": past}).failure is None


@pytest.mark.parametrize(
    ("pods", "failure", "warnings", "expected"),
    [
        ([], QUOTA, {}, (Reason.PODS_MISSING, QUOTA)),
        ([PENDING], None, {"uid-of-pod": "FailedMount: x"}, (Reason.CONTAINER_BLOCKED, "pod pod: FailedMount: x")),
        ([replace(PENDING, problem=(Reason.UNSCHEDULABLE, "no room"))], QUOTA, {}, (Reason.UNSCHEDULABLE, "no room")),
    ],
)
def test_servers_without_pods_or_containers(pods, failure, warnings, expected):
    there = deployment(0, failure=failure)
    reward = RewardFunctionWorld(
        function=FUNCTION, sources={}, deployment=there, configurations=[], pods=pods, readiness={}, new_token="t",
        now=NOW, warnings=warnings,
    )  # fmt: skip
    serving = InferenceEndpointWorld(
        endpoint=OWN, base=None, adapters=[], deployment=there, pods=pods, answers={}, now=NOW, warnings=warnings
    )
    for plan in (plan_reward_function(reward, SETTINGS), plan_inference_endpoint(serving, SETTINGS)):
        (condition,) = plan.status["conditions"]
        assert (condition["reason"], condition["message"]) == expected
        assert plan.requeue_seconds == (100 if pods == [PENDING] else None)


class Events:
    """Answers with events, or is away."""

    def __init__(self, events: list[dict[str, Any]] | None):
        self._events = events
        self.asked: list[tuple[str, str]] = []

    async def events(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        self.asked.append((namespace, uid))
        if self._events is None:
            raise Unavailable("HTTP 403: events are forbidden")
        return self._events


@pytest.mark.parametrize(("events", "warnings"), [([event("FailedMount", 1)], {"a": "FailedMount: of FailedMount"}),
                                                  ([event("Pulling", 1, "Normal")], {}), (None, {})])  # fmt: skip
def test_events_are_read_about_the_objects_that_are_late_only(events, warnings):
    cluster: Any = Events(events)
    assert asyncio.run(read_warnings(cluster, "team", ["a"])) == warnings
    assert cluster.asked == [("team", "a")]
    assert asyncio.run(read_warnings(cluster, "team", [])) == {}
    assert len(cluster.asked) == 1
