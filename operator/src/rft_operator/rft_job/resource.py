"""The resource RFTJob."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rft_api.conditions import ConditionType, has_ended
from rft_api.model import Json
from rft_api.rft_job import RFTJob
from rft_operator.kube.kinds import RFT_JOB
from rft_operator.kube.store import Key
from rft_operator.pods.late import late_uids, read_warnings
from rft_operator.reconcile.resource import ObjectMetrics, Resource, Sources
from rft_operator.rft_job.gpu_memory import read_gpu_memory
from rft_operator.rft_job.metrics import collect_jobs, sample_job
from rft_operator.rft_job.plan import awaits_gpu_memory, plan_rft_job
from rft_operator.rft_job.probe import ask_progress, asked_pods
from rft_operator.rft_job.references import find_references
from rft_operator.rft_job.run_state import awaited_objects
from rft_operator.rft_job.world import RFTJobWorld, gather_rft_job, trainer_pods
from rft_operator.status.conditions import Truth


async def _observe(sources: Sources, key: Key, obj: Json, now: datetime) -> RFTJobWorld:
    job = RFTJob.model_validate(obj)
    pods = [] if has_ended(obj.get("status", {})) else trainer_pods(sources.store, key)
    world = gather_rft_job(sources.store, key, job, await ask_progress(sources.pods, pods), now)
    late = late_uids(awaited_objects(world.newest, world.pods), now)
    warnings = await read_warnings(sources.cluster, key.namespace, late)
    if awaits_gpu_memory(world):
        queued = job.spec.queue_name is not None
        world = replace(world, gpu_memory=await read_gpu_memory(sources.nodes, job.spec.compute, queued))
    return replace(world, warnings=warnings, silent_seconds=sources.pods.seconds_of_silence(asked_pods(pods)))


def _problem_condition(status: Json) -> tuple[ConditionType, Truth]:
    """Return the end of a run is final: after it, an error can only be one of the endpoint."""
    return (ConditionType.ENDPOINT_READY, "False") if has_ended(status) else (ConditionType.SUCCEEDED, "Unknown")


RESOURCE = Resource(
    kind=RFT_JOB,
    observe=_observe,
    plan=plan_rft_job,
    references=find_references,
    metric_prefix="rft_job",
    metric_label="job",
    metrics=ObjectMetrics(sample_job, collect_jobs),
    problem_condition=_problem_condition,
)
