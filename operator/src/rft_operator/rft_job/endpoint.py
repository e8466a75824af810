"""Plan the InferenceEndpoint of an RFTJob that has succeeded, and the base endpoint that it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from rft_api.conditions import ConditionType, Reason
from rft_api.inference_endpoint import (
    MAXIMUM_ADAPTER_SOURCES,
    InferenceEndpoint,
    Serving,
    describe_foreign_source,
)
from rft_api.job_status import JobCheckpoint
from rft_api.model import Json
from rft_api.rft_job import RFTJob
from rft_api.run_folder import best_address, checkpoints_address
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.kube.metadata import Owner
from rft_operator.kube.names import FIELD_MANAGER, MANAGED_BY
from rft_operator.kube.plan import DesiredObject
from rft_operator.rft_job import names
from rft_operator.rft_job.world import RFTJobWorld, base_endpoint_name
from rft_operator.status.conditions import Finding, find_condition


@dataclass(frozen=True)
class EndpointPlan:
    """The part of a plan that is about the endpoint of a job."""

    desired: Sequence[DesiredObject]
    """The endpoints to apply."""
    finding: Finding | None
    """The condition EndpointReady; None when the job has no endpoint."""


def plan_job_endpoint(
    world: RFTJobWorld, succeeded: bool, base_model: str, checkpoints: Sequence[JobCheckpoint] = ()
) -> EndpointPlan:
    """Plan the endpoints of a job.

    Args:
        world: the world of the job.
        succeeded: whether the job has succeeded; before that, no endpoint is created.
        base_model: the address of the base model, with its revision.
        checkpoints: those that the status has, best first.
    """
    job, endpoint = world.job, world.job.spec.endpoint
    if endpoint is None:
        return EndpointPlan((), None)
    base = base_endpoint_name(job)
    base_existing = world.endpoints.get(base) if base is not None else None
    if not succeeded:
        return EndpointPlan((), _waiting_finding(job, base_existing))
    existing = world.endpoints.get(endpoint.name)
    if existing is not None and existing.metadata.labels.get(names.CREATED_FOR) != job.metadata.name:
        text = f"InferenceEndpoint {endpoint.name} exists and was not created for this job"
        return EndpointPlan((), Finding(ConditionType.ENDPOINT_READY, "False", Reason.ENDPOINT_TAKEN, text))
    served = _build_endpoint(job, endpoint.name, best_address(job.spec.output.uri))
    desired = [DesiredObject(served, "the job has succeeded, and its spec.endpoint asks for it")]
    if base is not None and (base_existing is None or _is_ours(base_existing)):
        built = _build_base_endpoint(job, base_model, base, world.sharing_jobs, base_existing)
        desired.insert(0, DesiredObject(built, f"its server serves the adapter {endpoint.name}"))
    desired += _checkpoint_endpoints(world, checkpoints) if base is not None and endpoint.checkpoints else []
    return EndpointPlan(desired, _endpoint_finding(existing))


def _checkpoint_endpoints(world: RFTJobWorld, checkpoints: Sequence[JobCheckpoint]) -> list[DesiredObject]:
    """Build the endpoints of all checkpoints but the best one, which is the tuned model. Those that have the names of
    others are left alone."""
    job, endpoint = world.job, world.job.spec.endpoint
    assert endpoint is not None
    desired = []
    for checkpoint in checkpoints[1:]:
        name = names.checkpoint_endpoint(endpoint.name, checkpoint.step)
        existing = world.endpoints.get(name)
        if existing is None or existing.metadata.labels.get(names.CREATED_FOR) == job.metadata.name:
            built = _build_endpoint(job, name, checkpoint.uri)
            desired.append(DesiredObject(built, "the job has kept this checkpoint, and its spec.endpoint asks for it"))
    return desired


def _is_ours(base: InferenceEndpoint) -> bool:
    """Return whether the operator created a base endpoint for a job, and not a user with the same label."""
    return names.CREATED_FOR in base.metadata.labels and base.spec.model is not None


def _waiting_finding(job: RFTJob, base: InferenceEndpoint | None) -> Finding:
    """Return the condition before the result, which says early when the base endpoint will not serve the adapter."""
    kind, best = ConditionType.ENDPOINT_READY, best_address(job.spec.output.uri)
    if (
        base is None
        or (_is_ours(base) and base.spec.credentials == job.spec.credentials)
        or (base.spec.serving or Serving()).admits_adapter(best)
    ):
        return Finding(kind, "Unknown", Reason.WAITING_FOR_RESULT)
    problem = f"spec.endpoint.baseEndpoint: {describe_foreign_source(best, base.metadata.name)}"
    return Finding(kind, "False", Reason.CONFIGURATION_INVALID, problem)


def _endpoint_finding(endpoint: InferenceEndpoint | None) -> Finding:
    kind = ConditionType.ENDPOINT_READY
    conditions = endpoint.status.conditions if endpoint is not None and endpoint.status is not None else []
    ready = find_condition(conditions, ConditionType.READY)
    is_current = (
        endpoint is not None and ready is not None and ready.observed_generation == endpoint.metadata.generation
    )
    # Whoever may write the status of the endpoint may write any reason.
    if ready is None or not is_current or ready.reason not in set(Reason):
        return Finding(kind, "False", Reason.STARTING, "the endpoint is being created")
    return Finding(kind, ready.status, Reason(ready.reason), ready.message)


def _build_endpoint(job: RFTJob, name: str, uri: str) -> Json:
    """Build the endpoint of the tuned model or of another checkpoint, by its address."""
    endpoint = job.spec.endpoint
    assert endpoint is not None
    base = base_endpoint_name(job)
    spec: Json = {"baseEndpoint": base, "adapter": {"uri": uri}} if base else {"model": {"uri": uri}}
    if base is None:
        spec["serving"] = _serving(job)
    if job.spec.credentials is not None:
        spec = {"credentials": job.spec.credentials.to_json_object(), **spec}
    owners = [Owner.of(job).reference()] if endpoint.deletion_policy == "Delete" else []
    built = _endpoint_object(job, name, job.metadata.name, spec, owners)
    sampling = job.spec.sampling.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if sampling:
        built["metadata"]["annotations"] = {names.ASK_WITH: json.dumps(sampling, sort_keys=True, ensure_ascii=False)}
    return built


def _build_base_endpoint(
    job: RFTJob, model: str, name: str, sharing: Sequence[RFTJob], existing: InferenceEndpoint | None
) -> Json:
    """Build the base endpoint, which is owned by all jobs that use it and is deleted with the last of them.

    It has no owners when the deletion policy of one of the jobs is Keep. It serves adapters from the outputs of those
    jobs that have its credentials, because with other ones a job could reach what its user may not.
    """
    policies = {other.spec.endpoint.deletion_policy for other in sharing if other.spec.endpoint is not None}
    ordered = sorted(sharing, key=lambda other: other.metadata.name)
    owners = [] if "Keep" in policies else [Owner.of(other).reference(controller=False) for other in ordered]
    credentials = job.spec.credentials if existing is None else existing.spec.credentials
    # A base without credentials takes none of another job, which would then be used for every adapter.
    secret = {} if credentials is None else {"credentials": credentials.to_json_object()}
    outputs = [place for each in (*ordered, job) if each.spec.credentials == credentials for place in _places(each)]
    if existing is None:
        serving = {**_serving(job), "adapterSources": list(dict.fromkeys(outputs))}
        spec = {**secret, "model": {"uri": model}, "serving": serving}
        return _endpoint_object(job, name, job.metadata.name, spec, owners)
    # Another job may have created it with other settings, so only its owners and the places of adapters change.
    settings = existing.spec.serving or Serving()
    added = [output for output in dict.fromkeys(outputs) if not settings.admits_adapter(output)]
    sources = [*settings.adapter_sources, *added][:MAXIMUM_ADAPTER_SOURCES]
    assert existing.spec.model is not None  # `_is_ours`: it was built as above
    kept = {"model": existing.spec.model.to_json_object()}
    spec = {**secret, **kept, "serving": {**settings.to_json_object(), "adapterSources": sources}}
    return _endpoint_object(job, name, existing.metadata.labels[names.CREATED_FOR], spec, owners)


def _places(job: RFTJob) -> list[str]:
    """Return the places of a job's adapters."""
    served = job.spec.endpoint is not None and job.spec.endpoint.checkpoints
    output = job.spec.output.uri
    return [best_address(output), *([checkpoints_address(output)] if served else [])]


def _endpoint_object(job: RFTJob, name: str, created_for: str, spec: Json, owners: list[Json]) -> Json:
    return {
        "apiVersion": INFERENCE_ENDPOINT.api_version,
        "kind": INFERENCE_ENDPOINT.name,
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": {MANAGED_BY: FIELD_MANAGER, names.CREATED_FOR: created_for},
            "ownerReferences": owners,
        },
        "spec": spec,
    }


def _serving(job: RFTJob) -> Json:
    compute = job.spec.compute
    serving: Json = {"gpus": min(compute.gpus_per_node, 1), "gpuResource": compute.gpu_resource}
    if job.spec.tuning.type == "Full":
        return {**serving, "maxAdapters": 0}
    rank = job.spec.tuning.effective_rank
    default = Serving().max_adapter_rank
    choices = get_args(Serving.model_fields["max_adapter_rank"].annotation)
    if rank > default:
        serving["maxAdapterRank"] = min(choice for choice in choices if choice >= rank)
    return serving
