"""Specs that are changed while their job runs: what is taken over, and what the run keeps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from worlds_from_yaml import plan_objects, read_case

RUNNING = Path(__file__).with_name("golden") / "job-running.yaml"


def job_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (job,) = [obj for obj in objects if obj["kind"] == "RFTJob"]
    return job


def configuration() -> dict[str, Any]:
    """The ConfigMap that the operator makes at the first start, as the API server has it."""
    first = read_case(RUNNING)
    objects = [obj for obj in first["objects"] if obj["kind"] not in ("Job", "Pod")]
    made = [desired.object for desired in plan_objects(first["of"], objects, first["now"]).desired]
    (config_map,) = [obj for obj in made if obj["kind"] == "ConfigMap"]
    config_map["metadata"] |= {"uid": "55555555-aaaa-bbbb-cccc-000000000001", "resourceVersion": "33"}
    return copy.deepcopy(config_map)


def plan_changed(change: dict[str, Any], attempt_ended: bool = False) -> Any:
    """The plan for the running job with another spec."""
    running = read_case(RUNNING)
    objects = [*running["objects"], configuration()]
    job_of(objects)["spec"] |= change
    if attempt_ended:
        objects = [obj for obj in objects if obj["kind"] not in ("Job", "Pod")]
        job_of(objects)["status"] = {"startTime": "2026-01-31T12:00:10Z"}
    return plan_objects(running["of"], objects, running["now"], progress=running["progress"])


def accepted(plan: Any) -> dict[str, Any]:
    (condition,) = [c for c in plan.status["conditions"] if c["type"] == "SpecAccepted"]
    return condition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "DAPO"}, "algorithm"),
        (
            {"hyperparameters": {"learningRate": "1e-4", "seed": 3}},
            "hyperparameters.learningRate, hyperparameters.seed",
        ),
        ({"hyperparameters": {"microBatchSize": 4}}, "hyperparameters.microBatchSize"),
        ({"output": {"uri": "s3://runs/other/"}}, "output.uri"),
        ({"algorithm": "DAPO", "suspend": True}, "algorithm"),
    ],
)
def test_what_the_trainer_reads_is_kept(change, message):
    condition = accepted(plan_changed(change))
    assert (condition["status"], condition["reason"]) == ("False", "SpecChangeRejected")
    assert condition["message"] == f"training has started with other values of {message}, and continues with them"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"hyperparameters": {"learningRate": "0.00001"}},
        {"tuning": {"rank": 16, "alpha": 32}},
        {"suspend": True},
        {"limits": {"retries": 7}},
        {"credentials": {"secretName": "others"}},
        {"queueName": "team"},
        {"compute": {"pod": {"priorityClassName": "high"}}},
    ],
)
def test_what_the_trainer_does_not_read_is_taken_over(change):
    condition = accepted(plan_changed(change))
    assert (condition["status"], condition["reason"]) == ("True", "Accepted")


@pytest.mark.parametrize("further", [{}, {"algorithm": "DAPO"}])
def test_the_next_attempt_has_the_changed_pod_also_beside_a_rejected_change(further):
    resources = {"limits": {"memory": "99Gi"}}
    change = {"compute": {"pod": {"resources": resources}}, "credentials": {"secretName": "others"}, **further}
    plan = plan_changed(change, attempt_ended=True)
    assert accepted(plan)["status"] == str(not further)
    (attempt,) = [desired.object for desired in plan.desired if desired.object["kind"] == "Job"]
    (container,) = attempt["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "99Gi"
    assert {"secretRef": {"name": "others"}} in container["envFrom"]


@pytest.mark.parametrize(
    ("change", "deleted"),
    [
        # An image that cannot be pulled is corrected in this way.
        ({"compute": {"pod": {"image": "registry.example.com/other:1"}}}, {"ConfigMap", "Job"}),
        ({"credentials": {"secretName": "others"}}, {"ConfigMap", "Job"}),
        ({"limits": {"retries": 7}}, set()),
        # A default that is stated.
        ({"tuning": {"rank": 16, "alpha": 32}}, set()),
    ],
)
def test_before_training_pods_are_replaced_when_what_they_are_made_of_changes(change, deleted):
    running = read_case(RUNNING)
    objects = [*(obj for obj in running["objects"] if obj["kind"] != "Pod"), configuration()]
    job_of(objects)["spec"] |= change
    job_of(objects)["status"] = {}
    plan = plan_objects(running["of"], objects, running["now"])
    assert {deletion.kind.name for deletion in plan.deletions} == deleted


def test_a_run_whose_stored_spec_has_a_value_that_is_no_longer_allowed_goes_on():
    """The engine InProcess was called Transformers before."""
    running = read_case(RUNNING)
    old = configuration()
    for name, text in old["data"].items():
        old["data"][name] = text.replace('"placement": "Shared"', '"engine": "Transformers"')
    assert '"engine": "Transformers"' in old["data"]["spec.json"]
    plan = plan_objects(running["of"], [*running["objects"], old], running["now"], progress=running["progress"])
    (condition,) = [c for c in plan.status["conditions"] if c["type"] == "Succeeded"]
    assert condition["reason"] == "Running"
    assert plan.deletions == []
