"""When RewardFunctions and InferenceEndpoints are Ready, and why not, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from views import ADAPTER, FUNCTION, METADATA, NOW, OWN, ago, deployment, endpoint, pod
from worlds_from_yaml import SETTINGS, plan_objects, read_case

from rft_api.adapter_protocol import AdapterReport
from rft_api.conditions import Reason
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.readiness import NotReady, NotReadyReason, Readiness
from rft_api.reward_function import RewardFunction
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld, ServerAnswer
from rft_operator.pods.demand import Demand
from rft_operator.pods.pod_view import PodView, Termination
from rft_operator.reward_function.plan import plan_reward_function
from rft_operator.reward_function.world import RewardFunctionWorld


def waiting(**changes: Any) -> PodView:
    return pod(**{"ready": False, **changes})


def ended(code: int, message: str = "error: it said so") -> PodView:
    return waiting(terminated=True, termination=Termination(code, message, NOW))


def not_ready(reason: NotReadyReason, message: str = "why") -> dict[str, Readiness]:
    return {"pod": Readiness(reasons=[NotReady(reason=reason, message=message)])}


STUCK = (Reason.IMAGE_PULL_FAILED, "no image")
READY_POD = pod()

REWARD_CASES: dict[str, tuple[dict[str, Any], Reason]] = {
    "new": ({}, Reason.STARTING),
    "the Deployment is still that of other code, and serves": (
        {"deployment": deployment(available=1, content_digest="old")}, Reason.ROLLING_OUT),
    "the Deployment controller has not seen the new spec": (
        {"deployment": deployment(available=1, settled=False)}, Reason.ROLLING_OUT),
    "all pods are new, one is ready": ({"deployment": deployment(available=1)}, Reason.READY),
    "a replica restarts, others serve": ({"deployment": deployment(3, 2), "pods": [waiting()]}, Reason.READY),
    "an old pod is left": ({"deployment": deployment(1, 2, replicas=2)}, Reason.ROLLING_OUT),
    "pods start": ({"deployment": deployment(), "pods": [waiting()]}, Reason.STARTING),
    "pods start their workers": (
        {"deployment": deployment(), "pods": [waiting()], "readiness": not_ready(NotReadyReason.WORKERS_STARTING)},
        Reason.STARTING),
    "tests fail": (
        {"deployment": deployment(), "pods": [waiting()], "readiness": not_ready(NotReadyReason.TEST_FAILED)},
        Reason.TESTS_FAILING),
    "workers cannot start": (
        {"deployment": deployment(), "pods": [waiting()], "readiness": not_ready(NotReadyReason.WORKERS_FAILING)},
        Reason.SERVER_FAILING),
    "no image": ({"deployment": deployment(), "pods": [waiting(problem=STUCK)]}, Reason.IMAGE_PULL_FAILED),
    "the server refuses the manifest": (
        {"deployment": deployment(), "pods": [ended(10)]}, Reason.CONFIGURATION_INVALID),
    "the server ends": ({"deployment": deployment(), "pods": [ended(137)]}, Reason.SERVER_FAILING),
    "a pod that goes away says nothing": (
        {"deployment": deployment(), "pods": [waiting(problem=STUCK, deleting=True)]}, Reason.STARTING),
}  # fmt: skip


@pytest.mark.parametrize("name", REWARD_CASES)
def test_a_reward_function(name):
    seen, reason = REWARD_CASES[name]
    fields = {"sources": {}, "deployment": None, "configurations": [], "pods": [], "readiness": {}}
    world = RewardFunctionWorld(function=FUNCTION, new_token="t", now=NOW, **{**fields, **seen})
    (condition,) = plan_reward_function(world, SETTINGS).status["conditions"]
    assert (condition["reason"], condition["status"]) == (reason, "True" if reason is Reason.READY else "False")


def test_all_that_a_server_says_against_its_manifest_is_in_the_condition():
    text = "the packages a, b could not be installed: error: No solution found\n  cause: there is no b\nCorrect them."
    seen = {"deployment": deployment(), "pods": [ended(10, text)], "readiness": {}}
    world = RewardFunctionWorld(function=FUNCTION, sources={}, configurations=[], new_token="t", now=NOW, **seen)
    (condition,) = plan_reward_function(world, SETTINGS).status["conditions"]
    assert condition["message"] == f"pod pod: {text}"


@pytest.mark.parametrize("message", ["", "test 1: expected", "the workers are starting", "the code raised NameError"])
@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (NotReadyReason.WORKERS_STARTING, Reason.STARTING),
        (NotReadyReason.WORKERS_FAILING, Reason.SERVER_FAILING),
        (NotReadyReason.TEST_FAILED, Reason.TESTS_FAILING),
    ],
)
def test_rewording_what_a_reward_server_says_changes_no_condition(reason, expected, message):
    seen = {"deployment": deployment(), "pods": [waiting()], "readiness": not_ready(reason, message)}
    world = RewardFunctionWorld(function=FUNCTION, sources={}, configurations=[], new_token="t", now=NOW, **seen)
    (condition,) = plan_reward_function(world, SETTINGS).status["conditions"]
    assert condition["reason"] == expected


def test_missing_code_leaves_what_serves_alone():
    source = {"python": {"sourceFrom": {"configMap": {"name": "code", "key": "k"}}}}
    function = RewardFunction.model_validate({"metadata": METADATA, "spec": source})
    world = RewardFunctionWorld(function, {}, deployment(available=1), [], [], {}, "t", NOW)
    plan = plan_reward_function(world, SETTINGS)
    assert (plan.desired, plan.deletions, plan.requeue_seconds) == ([], [], 60)
    assert plan.status["conditions"][0]["reason"] == "SourceMissing"


BASE = endpoint("base", model={"uri": "s3://m/x"}, serving={"adapterSources": ["s3://a"]})
SCALED = endpoint(model={"uri": "s3://m/x"}, autoscale={})
ASKED = {"endpoint": SCALED, "deployment": deployment(), "demand": Demand(1, NOW, ago(1000), None)}
"""An endpoint with autoscale, for which there is a request."""
SERVES = ServerAnswer(None)


def report(state: Any, uri: str = "s3://a/x", problem: str | None = None) -> dict[str, ServerAnswer]:
    return {"pod": ServerAnswer(problem, AdapterReport(name="x", uri=uri, state=state, message="why"))}


ENDPOINT_CASES: dict[str, tuple[dict[str, Any], Reason]] = {
    "new": ({"endpoint": OWN}, Reason.STARTING),
    "no replicas": ({"endpoint": endpoint(model={"uri": "s3://m/x"}, replicas=0)}, Reason.SCALED_TO_ZERO),
    "nobody asks": ({"endpoint": SCALED, "demand": Demand(0, None, ago(1000), None)}, Reason.SCALED_TO_ZERO),
    "a request has woken it": (ASKED, Reason.WAKING),
    "a request has woken it, and a pod starts": ({**ASKED, "pods": [waiting()]}, Reason.WAKING),
    "a request has woken it, and there is no node": (
        {**ASKED, "pods": [waiting(problem=(Reason.UNSCHEDULABLE, "no GPU"))]}, Reason.UNSCHEDULABLE),
    "a request has woken it, and there is no model": ({**ASKED, "pods": [ended(12)]}, Reason.MODEL_INVALID),
    "a request has woken it, and it answers": (
        {**ASKED, "pods": [READY_POD], "answers": {"pod": SERVES}}, Reason.READY),
    "there always is a pod, and it starts": (
        {**ASKED, "endpoint": endpoint(model={"uri": "s3://m/x"}, autoscale={"minimum": 1})}, Reason.STARTING),
    "no gateway says what is asked for": ({"endpoint": SCALED}, Reason.STARTING),
    "autoscale of a model at a path": (
        {"endpoint": endpoint(model={"uri": "/m/x"}, autoscale={})}, Reason.CONFIGURATION_INVALID),
    "a path": ({"endpoint": endpoint(model={"uri": "/m/x"})}, Reason.CONFIGURATION_INVALID),
    "starting": ({"endpoint": OWN, "deployment": deployment(), "pods": [waiting()]}, Reason.STARTING),
    "no image": ({"endpoint": OWN, "deployment": deployment(), "pods": [waiting(problem=STUCK)]},
                 Reason.IMAGE_PULL_FAILED),
    "answers": ({"endpoint": OWN, "deployment": deployment(), "pods": [READY_POD], "answers": {"pod": SERVES}},
                Reason.READY),
    "does not answer": (
        {"endpoint": OWN, "deployment": deployment(), "pods": [READY_POD], "answers": {"pod": ServerAnswer("404")}},
        Reason.NOT_ANSWERING),
    "ends": ({"endpoint": OWN, "deployment": deployment(), "pods": [ended(1)]}, Reason.SERVER_FAILING),
    "the model cannot be fetched": ({"endpoint": OWN, "deployment": deployment(), "pods": [ended(12)]},
                                    Reason.MODEL_INVALID),
    "no base": ({"endpoint": ADAPTER}, Reason.BASE_MISSING),
    "the base is an adapter": (
        {"endpoint": ADAPTER, "base": endpoint("base", baseEndpoint="b", adapter={"uri": "s3://a/y"})},
        Reason.CONFIGURATION_INVALID),
    "the base takes no adapters": (
        {"endpoint": ADAPTER, "base": endpoint("base", model={"uri": "s3://m/x"}, serving={"maxAdapters": 0})},
        Reason.CONFIGURATION_INVALID),
    "the base does not name where it is": (
        {"endpoint": ADAPTER, "base": endpoint("base", model={"uri": "s3://m/x"})}, Reason.CONFIGURATION_INVALID),
    "other credentials than the base": (
        {"endpoint": endpoint(baseEndpoint="base", adapter={"uri": "s3://a/x"}, credentials={"secretName": "s"}),
         "base": BASE}, Reason.CONFIGURATION_INVALID),
    "the base is scaled to zero": (
        {"endpoint": ADAPTER, "base": BASE.model_copy(update={"spec": BASE.spec.model_copy(update={"replicas": 0})})},
        Reason.SCALED_TO_ZERO),
    "the base starts": ({"endpoint": ADAPTER, "base": BASE, "pods": [waiting()]}, Reason.BASE_NOT_READY),
    "no loader answers": ({"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD]}, Reason.ADAPTER_LOADING),
    "loading": ({"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD], "answers": report("Loading")},
                Reason.ADAPTER_LOADING),
    "the loader still has another address": (
        {"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD], "answers": report("Loaded", "s3://a/old")},
        Reason.ADAPTER_LOADING),
    "refused": ({"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD], "answers": report("Failed")},
                Reason.ADAPTER_REJECTED),
    "loaded, and answers": ({"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD], "answers": report("Loaded")},
                            Reason.READY),
    "loaded, and does not answer": (
        {"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD], "answers": report("Loaded", problem="404")},
        Reason.NOT_ANSWERING),
    "one of two pods has not loaded it": (
        {"endpoint": ADAPTER, "base": BASE, "pods": [READY_POD, pod(name="other")], "answers": report("Loaded")},
        Reason.ADAPTER_LOADING),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDPOINT_CASES)
def test_an_endpoint(name):
    seen, reason = ENDPOINT_CASES[name]
    fields: dict[str, Any] = {"base": None, "adapters": [], "deployment": None, "pods": [], "answers": {}}
    world = InferenceEndpointWorld(now=NOW, **{**fields, **seen})
    condition, *others = plan_inference_endpoint(world, SETTINGS).status["conditions"]
    assert (condition["reason"], condition["status"]) == (reason, "True" if reason is Reason.READY else "False")
    assert [other["type"] for other in others] == (["ScalingActive"] if world.endpoint.spec.autoscale else [])


def test_a_number_that_cannot_be_applied_is_not_in_the_status():
    kept = {"replicas": 2, "lastRequestTime": "2026-01-31T11:00:00Z"}
    spec = {"model": {"uri": "/m/x"}, "autoscale": {"maximum": 4}}
    invalid = InferenceEndpoint.model_validate({"metadata": METADATA, "spec": spec, "status": {"autoscale": kept}})
    world = InferenceEndpointWorld(invalid, None, [], None, [], {}, NOW, demand=Demand(99, NOW, ago(1000), None))
    plan = plan_inference_endpoint(world, SETTINGS)
    assert plan.status["autoscale"] == kept
    assert [event.reason for event in plan.events] == ["ConfigurationInvalid"]


def test_a_reward_that_cannot_be_read_is_not_missing():
    case = read_case(Path(__file__).with_name("golden") / "job-first-start.yaml")
    objects = [obj for obj in case["objects"] if obj["kind"] != "RewardFunction"]
    reward = {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "RewardFunction",
        "metadata": {**METADATA, "name": "amount", "resourceVersion": "12"},
        "spec": {"builtin": {"name": "Format", "format": {"pattern": "("}}, "http": {"url": "http://x y"}},
    }
    plan = plan_objects(case["of"], [*objects, reward], case["now"])
    (ready,) = [c for c in plan.status["conditions"] if c["type"] == "RewardsReady"]
    assert (ready["status"], ready["reason"]) == ("False", "RewardNotReady")
    assert ready["message"] == (
        "RewardFunction amount is not Ready: ConfigurationInvalid: "
        "spec.builtin.format.pattern: is not a regular expression: missing ), unterminated subpattern at position 0; "
        "spec.http.url: is not a URL"
    )
