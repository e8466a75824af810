"""Containers that others add to pods: the main container's end is the end, and readiness is that of the whole pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from views import FUNCTION, NOW, OWN, ago, deployment, pod
from worlds_from_yaml import SETTINGS, plan_objects

from rft_api.conditions import Reason
from rft_api.rft_job import Limits
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld
from rft_operator.kube.timestamps import format_timestamp
from rft_operator.pods.pod_view import PodView, Termination, read_pod
from rft_operator.reward_function.plan import plan_reward_function
from rft_operator.reward_function.world import RewardFunctionWorld
from rft_operator.rft_job.attempts import Attempt, Outcome, find_cause, read_attempt
from rft_operator.rft_job.run_state import RunFacts, decide_run_state

PROXY = {"name": "istio-proxy", "ready": True, "state": {"running": {"startedAt": "2026-01-31T11:50:00Z"}}}


def ended(code: int, **changes: Any) -> PodView:
    """A pod whose trainer has ended 60 seconds ago while a proxy runs on."""
    termination = Termination(code, "DataInvalid: line 3: no JSON" if code else "", ago(60))
    return pod(**{"terminated": True, "ready": False, "termination": termination, **changes})


def job(nodes: int = 1, conditions: list[dict[str, str]] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "j-trainer-0", "uid": "uid-0", "labels": {"rft.dev/attempt": "0"}},
        "spec": {"parallelism": nodes, **spec},
        "status": {"conditions": conditions or []},
    }


FAILED = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
           "lastTransitionTime": "2026-01-31T11:59:58Z"}]  # fmt: skip
DELETED = {"deleting": True, "told_to_end_at": ago(10)}
"""Deleted after the trainer had ended."""
STOPPED = {"deleting": True, "told_to_end_at": ago(70)}
"""Told to end while the trainer ran, which then saved a checkpoint."""


@pytest.mark.parametrize(
    ("made", "pods", "outcome"),
    [
        (job(), [pod()], Outcome.UNFINISHED),
        (job(), [ended(0)], Outcome.SUCCEEDED),
        (job(), [ended(11)], Outcome.PERMANENT),
        (job(), [ended(1)], Outcome.RETRIABLE),
        (job(), [ended(137)], Outcome.RETRIABLE),
        (job(), [ended(75)], Outcome.INTERRUPTED),
        (job(), [ended(137, disrupted=True)], Outcome.INTERRUPTED),
        (job(2), [ended(0), pod()], Outcome.UNFINISHED),
        (job(2), [ended(0)], Outcome.UNFINISHED),
        (job(2), [ended(0), ended(0, phase="Succeeded")], Outcome.SUCCEEDED),
        (job(2), [ended(1), pod()], Outcome.RETRIABLE),
        (job(2), [ended(1), ended(11)], Outcome.PERMANENT),
        # The pod was deleted because of its proxy.
        (job(), [ended(1, **DELETED)], Outcome.RETRIABLE),
        (job(), [ended(1, phase="Failed", **DELETED)], Outcome.RETRIABLE),
        # The proxy ended with an error of its own, after the trainer or because it was told to.
        (job(conditions=FAILED), [ended(0, phase="Failed")], Outcome.SUCCEEDED),
        # What the Job itself will say, or has said.
        (job(), [ended(1, phase="Failed")], Outcome.UNFINISHED),
        (job(), [ended(75, **STOPPED)], Outcome.UNFINISHED),
        (job(conditions=FAILED), [ended(11)], Outcome.RETRIABLE),
        (job(suspend=True), [ended(1)], Outcome.UNFINISHED),
    ],
)
def test_the_trainers_end_is_the_attempts(made, pods, outcome):
    found = read_attempt(made, pods)
    assert found.outcome is outcome
    if outcome is not Outcome.UNFINISHED and made["status"]["conditions"] == []:
        assert found.ended_at == ago(60)


def facts(attempts: list[Attempt], pods: list[PodView], **changes: Any) -> RunFacts:
    fields: dict[str, Any] = {
        "suspend": False, "limits": Limits(), "attempts": attempts, "pods": pods, "progress": None,
        "start_time": ago(1000), "gpu_seconds": 0, "blocked": None, "now": NOW,
    }  # fmt: skip
    return RunFacts(**{**fields, **changes})


def test_the_cause_and_the_next_attempt_do_not_wait_for_the_proxy():
    failing = [ended(11)]
    found = read_attempt(job(), failing)
    state = decide_run_state(facts([found], failing))
    assert (state.status, state.reason, state.message) == ("False", Reason.DATA_INVALID, "pod pod: line 3: no JSON")
    passing = [ended(1)]
    found = read_attempt(job(), passing)
    assert find_cause(found, passing).message == "pod pod: line 3: no JSON"
    state = decide_run_state(facts([found], passing))
    assert (state.reason, state.start) == (Reason.STARTING, 1)
    assert decide_run_state(facts([found], passing, suspend=True)).reason is Reason.SUSPENDED
    # A trainer that runs is waited for: two attempts never write to one output.
    running = [ended(1), pod()]
    state = decide_run_state(facts([read_attempt(job(2), running)], running))
    assert (state.reason, state.start) == (Reason.STOPPING, None)


METADATA = {"namespace": "team", "uid": "uid-j", "resourceVersion": "1", "generation": 1}
RUN = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "RFTJob",
    "metadata": {"name": "j", **METADATA},
    "spec": {
        "model": {"uri": "s3://m/base"},
        "data": {"train": [{"name": "a", "uri": "s3://d/a", "reward": "r"}]},
        "output": {"uri": "s3://o/j"},
        "compute": {"gpusPerNode": 0},
        "limits": {"retries": 1},
    },
}
REWARD = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "RewardFunction",
    "metadata": {"name": "r", **METADATA, "uid": "uid-r"},
    "spec": {"builtin": {"name": "Math"}},
    "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "Ready", "observedGeneration": 1,
         "lastTransitionTime": "2026-01-31T11:00:00Z"}
    ]},
}  # fmt: skip
LABELS = {"app.kubernetes.io/component": "trainer", "rft.dev/owner": "j"}


def objects(code: int, ended_seconds_ago: float, status: dict[str, Any]) -> list[dict[str, Any]]:
    """A run whose trainer has ended while a proxy runs on."""
    owner = {"kind": "RFTJob", "name": "j", "uid": "uid-j"}
    attempt = {
        **job(),
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "j-trainer-0", "uid": "uid-0", "namespace": "team", "resourceVersion": "2",
            "labels": {**LABELS, "rft.dev/attempt": "0"}, "ownerReferences": [owner],
        },
    }  # fmt: skip
    finished = format_timestamp(ago(ended_seconds_ago))
    terminated = {"exitCode": code, "message": "Unexpected: lightning", "finishedAt": finished}
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "j-trainer-0-0-abcde", "uid": "uid-p", "namespace": "team", "resourceVersion": "3",
            "labels": {**LABELS, "batch.kubernetes.io/job-completion-index": "0"},
            "ownerReferences": [{"kind": "Job", "name": "j-trainer-0", "uid": "uid-0"}],
        },
        "status": {
            "phase": "Running",
            "startTime": "2026-01-31T11:50:00Z",
            "containerStatuses": [PROXY, {"name": "trainer", "state": {"terminated": terminated}}],
        },
    }  # fmt: skip
    return [REWARD, {**RUN, "status": status}, attempt, made]


def condition(status: str, reason: str) -> dict[str, Any]:
    time = "2026-01-31T11:50:00Z"
    return {"conditions": [{"type": "Succeeded", "status": status, "reason": reason, "lastTransitionTime": time}]}


@pytest.mark.parametrize(
    ("code", "seconds", "status", "reason", "deleted", "requeue"),
    [
        # Its end is written first, and native sidecars end by themselves.
        (11, 5, condition("Unknown", "Running"), "DataInvalid", [], 25),
        (11, 60, condition("Unknown", "Running"), "DataInvalid", [], 1),
        (11, 20, condition("False", "DataInvalid"), "DataInvalid", [], 10),
        (11, 60, condition("False", "DataInvalid"), "DataInvalid", ["j-trainer-0-0-abcde"], None),
        # The message of the retry is read from the pod, which is kept until the next attempt begins.
        (1, 5, condition("Unknown", "Running"), "Retrying", [], 5),
        (1, 60, condition("Unknown", "Retrying"), "Starting", ["j-trainer-0-0-abcde"], None),
    ],
)
def test_a_pod_with_a_proxy_is_deleted_when_its_end_is_known(code, seconds, status, reason, deleted, requeue):
    plan = plan_objects("RFTJob/team/j", objects(code, seconds, status), format_timestamp(NOW))
    found = next(c for c in plan.status["conditions"] if c["type"] == "Succeeded")
    assert found["reason"] == reason
    assert [(d.name, d.grace_seconds) for d in plan.deletions] == [(name, 30) for name in deleted]
    assert plan.requeue_seconds == requeue


INJECTED = [{"name": "istio-init"}, {"name": "istio-proxy", "restartPolicy": "Always"}, {"name": "fetch"}]


def view(**status: Any) -> PodView:
    return read_pod({"metadata": {"name": "p"}, "spec": {"initContainers": INJECTED}, "status": status}, "main")


def terminated(name: str, code: int) -> dict[str, Any]:
    return {"name": name, "state": {"terminated": {"exitCode": code, "message": f"of {name}"}}}


def test_a_native_sidecar_that_ends_after_the_main_container_is_not_its_end():
    seen = view(
        phase="Succeeded",
        initContainerStatuses=[terminated("istio-init", 0), terminated("istio-proxy", 143)],
        containerStatuses=[terminated("main", 0)],
    )
    assert (seen.terminated, seen.termination.exit_code, seen.termination.message) == (True, 0, "of main")


CRASHING = {"name": "istio-proxy", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "no certificate\n"}}}  # fmt: skip
FAILURE = "pod p, container istio-proxy ends again and again with exit code 1: no certificate"


def test_a_native_sidecar_that_does_not_start_is_named():
    waits = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
    seen = view(phase="Pending", initContainerStatuses=[CRASHING], containerStatuses=[waits])
    assert (seen.terminated, seen.sidecar_failure) == (False, FAILURE)
    waiting = replace(seen, job_uid="uid-0")
    state = decide_run_state(facts([read_attempt(job(), [waiting])], [waiting]))
    assert (state.reason, state.message) == (Reason.SIDECAR_FAILING, FAILURE)


NOT_READY = [{"type": "Ready", "status": "False"}]
MAIN = {"name": "main", "ready": True, "state": {"running": {}}}


@pytest.mark.parametrize(
    ("statuses", "reason", "message"),
    [
        ([CRASHING, MAIN], Reason.SIDECAR_FAILING, FAILURE),
        ([{**PROXY, "ready": False}, MAIN], Reason.STARTING, "; pod p: not ready: container istio-proxy"),
        # A server that is not ready itself does not wait for its proxy.
        ([{**PROXY, "ready": False}, {**MAIN, "ready": False}], Reason.STARTING, ""),
    ],
)
def test_a_server_is_ready_when_all_containers_of_its_pod_are(statuses, reason, message):
    seen = view(phase="Running", conditions=NOT_READY, containerStatuses=statuses)
    reward = RewardFunctionWorld(
        function=FUNCTION, sources={}, deployment=deployment(), configurations=[], pods=[seen], readiness={},
        new_token="t", now=NOW,
    )  # fmt: skip
    serving = InferenceEndpointWorld(
        endpoint=OWN, base=None, adapters=[], deployment=deployment(), pods=[seen], answers={}, now=NOW
    )
    for plan in (plan_reward_function(reward, SETTINGS), plan_inference_endpoint(serving, SETTINGS)):
        (found,) = plan.status["conditions"]
        assert found["reason"] == reason
        assert found["message"].endswith(message or ("newest version" if "newest" in found["message"] else "starting"))
