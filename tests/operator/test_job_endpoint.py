"""The endpoints that a finished job leaves behind, and what becomes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.rft_job import RFTJob
from rft_operator.rft_job import names
from rft_operator.rft_job.endpoint import EndpointPlan, plan_job_endpoint
from rft_operator.rft_job.world import RFTJobWorld

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def job(name: str = "job", policy: str = "Delete", **spec: Any) -> RFTJob:
    fields = {
        "model": {"uri": "hf://a/b"},
        "data": {"train": [{"name": "a", "uri": "s3://d/a", "reward": "r"}]},
        "output": {"uri": "s3://o/job/"},
        "endpoint": {"name": f"{name}-served", "baseEndpoint": "base", "deletionPolicy": policy},
    }
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}"}
    return RFTJob.model_validate({"metadata": metadata, "spec": {**fields, **spec}})


def endpoint(name: str, created_for: str | None = None, **spec: Any) -> InferenceEndpoint:
    labels = {} if created_for is None else {names.CREATED_FOR: created_for}
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "labels": labels, "generation": 1}
    given = spec or {"model": {"uri": "hf://a/b"}}
    return InferenceEndpoint.model_validate({"metadata": metadata, "spec": given})


def plan(
    of: RFTJob, *existing: InferenceEndpoint, sharing: list[RFTJob] | None = None, base_model: str = "hf://a/b"
) -> EndpointPlan:
    endpoints = {found.metadata.name: found for found in existing}
    world = RFTJobWorld(of, {}, None, [], [], None, endpoints, sharing or [of], NOW)
    return plan_job_endpoint(world, True, base_model)


def made(planned: EndpointPlan) -> dict[str, dict[str, Any]]:
    return {wanted.object["metadata"]["name"]: wanted.object for wanted in planned.desired}


def owners(obj: dict[str, Any]) -> list[str]:
    return [owner["name"] for owner in obj["metadata"]["ownerReferences"]]


def test_with_delete_everything_goes_with_the_job():
    objects = made(plan(job()))
    assert {name: owners(obj) for name, obj in objects.items()} == {"base": ["job"], "job-served": ["job"]}


def test_the_base_is_served_at_the_commit_that_was_trained_from():
    objects = made(plan(job(), base_model="hf://a/b@0123"))
    assert objects["base"]["spec"]["model"] == {"uri": "hf://a/b@0123"}


def test_with_keep_everything_stays():
    objects = made(plan(job(policy="Keep")))
    assert {name: owners(obj) for name, obj in objects.items()} == {"base": [], "job-served": []}


def test_a_base_goes_with_the_last_job_that_uses_it():
    first, second = job("a"), job("b")
    objects = made(plan(second, endpoint("base", created_for="a"), sharing=[second, first]))
    assert owners(objects["base"]) == ["a", "b"]
    assert objects["base"]["metadata"]["labels"][names.CREATED_FOR] == "a"


def test_one_job_that_keeps_its_endpoint_keeps_the_base():
    first, second = job("a", policy="Keep"), job("b")
    assert owners(made(plan(second, endpoint("base", created_for="a"), sharing=[first, second]))["base"]) == []


def test_a_base_of_the_users_is_left_alone():
    assert set(made(plan(job(), endpoint("base")))) == {"job-served"}


def test_an_endpoint_of_the_users_is_left_alone():
    planned = plan(job(), endpoint("job-served"))
    assert made(planned) == {}
    assert planned.finding.reason == "EndpointTaken"


def test_a_whole_model_gets_a_server_of_its_own():
    whole = job(tuning={"type": "Full"}, endpoint={"name": "served"}, compute={"gpusPerNode": 0})
    (served,) = made(plan(whole)).values()
    assert served["spec"] == {
        "model": {"uri": "s3://o/job/best"},
        "serving": {"gpus": 0, "gpuResource": "nvidia.com/gpu", "maxAdapters": 0},
    }


def test_an_adapter_without_a_base_gets_one_of_its_own():
    assert set(made(plan(job(endpoint={"name": "served"})))) == {"served", "served-base"}


def test_a_job_that_wants_none_gets_none():
    assert plan(job(endpoint=None)).finding is None
