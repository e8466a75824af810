"""The endpoints that a finished job leaves behind, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.job_status import JobCheckpoint
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
    of: RFTJob,
    *existing: InferenceEndpoint,
    sharing: list[RFTJob] | None = None,
    base_model: str = "hf://a/b",
    checkpoints: Sequence[JobCheckpoint] = (),
) -> EndpointPlan:
    endpoints = {found.metadata.name: found for found in existing}
    world = RFTJobWorld(of, {}, None, [], [], None, endpoints, sharing or [of], NOW)
    return plan_job_endpoint(world, True, base_model, checkpoints)


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


def sources(planned: EndpointPlan) -> list[str]:
    return made(planned)["base"]["spec"]["serving"]["adapterSources"]


def test_a_base_serves_adapters_from_the_outputs_of_its_jobs():
    first, second = job("a", output={"uri": "s3://o/a"}), job("b", output={"uri": "pvc://claim/b/"})
    assert sources(plan(first, sharing=[first, second])) == ["s3://o/a/best", "pvc://claim/b/best"]
    existing = endpoint(
        "base", created_for="a", model={"uri": "hf://a/b"}, serving={"adapterSources": ["s3://hand", "s3://o"]}
    )
    assert sources(plan(second, existing, sharing=[first, second])) == ["s3://hand", "s3://o", "pvc://claim/b/best"]


def test_a_base_takes_neither_outputs_nor_credentials_of_a_job_with_other_credentials():
    first = job("a", output={"uri": "s3://o/a"}, credentials={"secretName": "s"})
    second = job("b", output={"uri": "s3://payroll"}, credentials={"secretName": "t"})
    for secret in ({"secretName": "s"}, None):
        fields = {"credentials": secret} if secret else {}
        existing = endpoint("base", created_for="a", model={"uri": "hf://a/b"}, **fields)
        planned = plan(second, existing, sharing=[first, second])
        assert sources(planned) == (["s3://o/a/best"] if secret else [])
        assert made(planned)["base"]["spec"].get("credentials") == secret


def test_the_places_of_adapters_of_a_base_have_an_end():
    places = [f"s3://{n}" for n in range(256)]
    existing = endpoint("base", created_for="a", model={"uri": "hf://a/b"}, serving={"adapterSources": places})
    assert sources(plan(job(), existing)) == places


def test_a_base_that_will_not_serve_the_adapter_is_named_before_the_result():
    def waiting(*existing: InferenceEndpoint, **spec: Any) -> tuple[str, str]:
        of = job(**spec)
        endpoints = {base.metadata.name: base for base in existing}
        world = RFTJobWorld(of, {}, None, [], [], None, endpoints, [], NOW)
        finding = plan_job_endpoint(world, False, "hf://a/b").finding
        return str(finding.reason), finding.message

    theirs = endpoint("base")
    assert waiting() == ("WaitingForResult", "")
    reason, message = waiting(theirs)
    assert reason == "ConfigurationInvalid"
    assert message == (
        "spec.endpoint.baseEndpoint: InferenceEndpoint base does not serve adapters from s3://o/job/best; add this "
        "address, or a folder above it, to its spec.serving.adapterSources"
    )
    named = endpoint("base", model={"uri": "hf://a/b"}, serving={"adapterSources": ["s3://o/job"]})
    assert waiting(named) == ("WaitingForResult", "")
    ours = endpoint("base", created_for="other")
    assert waiting(ours) == ("WaitingForResult", "")
    assert waiting(ours, credentials={"secretName": "s"})[0] == "ConfigurationInvalid"


def test_an_adapter_with_the_label_of_a_base_is_not_taken_for_one():
    forged = endpoint("base", created_for="job", baseEndpoint="b", adapter={"uri": "s3://a/x"})
    assert set(made(plan(job(), forged))) == {"job-served"}


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


CHECKPOINTS = [
    JobCheckpoint(step=step, validation_reward="0.5", uri=f"s3://o/job/checkpoints/step-{step}")
    for step in (10, 30, 20)
]


def test_other_checkpoints_are_served_where_that_is_asked_for():
    served = {"name": "served", "baseEndpoint": "base", "checkpoints": True}
    planned = plan(job(endpoint=served), checkpoints=CHECKPOINTS)
    objects = made(planned)
    assert set(objects) == {"base", "served", "served-step-30", "served-step-20"}
    adapter = objects["served-step-30"]
    assert adapter["spec"] == {"baseEndpoint": "base", "adapter": {"uri": "s3://o/job/checkpoints/step-30"}}
    assert owners(adapter) == ["job"]
    assert sources(planned) == ["s3://o/job/best", "s3://o/job/checkpoints"]
    assert set(made(plan(job(), checkpoints=CHECKPOINTS))) == {"base", "job-served"}


def test_an_endpoint_with_the_name_of_a_checkpoint_is_left_alone():
    wanted = job(endpoint={"name": "served", "baseEndpoint": "base", "checkpoints": True})
    theirs, ours = endpoint("served-step-30"), endpoint("served-step-20", created_for="job")
    assert set(made(plan(wanted, theirs, ours, checkpoints=CHECKPOINTS))) == {"base", "served", "served-step-20"}


def test_the_checkpoints_of_a_whole_model_have_no_server():
    with pytest.raises(ValueError, match=r"endpoint.checkpoints serves LoRA adapters"):
        job(tuning={"type": "Full"}, endpoint={"name": "served", "checkpoints": True})


def test_a_job_that_wants_none_gets_none():
    assert plan(job(endpoint=None)).finding is None


def test_a_status_with_a_reason_of_somebody_else_is_not_believed():
    """Whoever may write the status of an endpoint would have stopped the reconciliation of the job that made it."""
    condition = {
        "type": "Ready", "status": "True", "reason": "Invented", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }  # fmt: skip
    served = endpoint("job-served", created_for="job", baseEndpoint="base", adapter={"uri": "s3://o/job/best"})
    for reason, status in (("Invented", "False"), ("Ready", "True")):
        document = {
            "metadata": served.metadata,
            "spec": served.spec,
            "status": {"conditions": [{**condition, "reason": reason}]},
        }
        finding = plan(job(), InferenceEndpoint.model_validate(document)).finding
        assert finding is not None
        assert finding.status == status
