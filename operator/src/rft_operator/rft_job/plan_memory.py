"""Decide whether a run may start: a pod plans its memory before the first attempt, and what does not fit ends the job.

| before the first attempt of a job with GPUs | decision |
|---|---|
| no Job that plans | create it |
| its pod has not ended, and some minutes have not passed | wait |
| it says that the job does not fit | the job has ended, unless the manifest says to train nevertheless |
| it says that the job fits, or cannot say | start: the trainer plans again, for the GPU that it has |

The Job is deleted when its verdict is in the status and the first attempt exists, or when nobody asks for it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rft_api.conditions import ConditionType, Reason
from rft_api.foreign.text import one_line
from rft_api.memory_verdict import permitted, refusal, unplanned
from rft_api.model import Json
from rft_api.progress import MemoryVerdict
from rft_api.rft_job import Compute
from rft_api.termination import parse_failure, parse_memory
from rft_operator.kube.kinds import JOB
from rft_operator.kube.plan import Deletion
from rft_operator.kube.timestamps import parse_timestamp
from rft_operator.pods.pod_view import PodView
from rft_operator.rft_job.run_state import RunState
from rft_operator.status.conditions import Finding

PLAN_SECONDS = 180
"""Seconds after which a job starts without a verdict: a hub that does not answer is tried for two minutes."""
RECORD_SECONDS = 1.0
"""Seconds until the next reconciliation, when the status has to be written before the Job is deleted."""
NOT_SAID = "the trainer plans the memory when its pod has started, before it reads the weights of the model"
NOT_PLANNED = "a pod plans the memory from the model's config.json, before the trainer's pods are created"
_NO_POD = "it has no pod"


@dataclass(frozen=True)
class MemoryPlanning:
    """The Job that plans the memory of a run."""

    name: str
    """Name of the Job."""
    uid: str
    """Uid of the Job."""
    deleting: bool
    """Whether the deletion of the Job has begun."""
    created_at: datetime | None
    """When the Job was created."""
    verdict: MemoryVerdict | None
    """What its pod says, or why that says nothing; None while the pod has not ended."""
    problem: str
    """Why its pod does not start; empty when nothing prevents it."""


def read_memory_planning(job: Json, pods: Sequence[PodView]) -> MemoryPlanning:
    """Read the state of a Job that plans.

    Args:
        job: the Job.
        pods: the pods that plan memory.
    """
    metadata = job["metadata"]
    own = [pod for pod in pods if pod.job_uid == metadata["uid"]]
    failed = [c for c in job.get("status", {}).get("conditions", []) if (c["type"], c["status"]) == ("Failed", "True")]
    verdicts = [_read_verdict(pod) for pod in own if pod.terminated]
    if failed and not verdicts:
        verdicts = [unplanned(f"the Job {metadata['name']} has failed: {failed[0].get('message', '')}")]
    return MemoryPlanning(
        name=metadata["name"],
        uid=metadata["uid"],
        deleting="deletionTimestamp" in metadata,
        created_at=parse_timestamp(metadata.get("creationTimestamp")),
        verdict=next(iter(verdicts), None),
        problem=next((pod.problem[1] for pod in own if pod.problem is not None), "" if own else _NO_POD),
    )


def _read_verdict(pod: PodView) -> MemoryVerdict:
    assert pod.termination is not None
    verdict = parse_memory(pod.termination.message) if pod.termination.exit_code == 0 else None
    if verdict is not None:
        return verdict
    text = parse_failure(pod.termination.message).message or f"exit code {pod.termination.exit_code}"
    return unplanned(f"pod {pod.name} ended without a verdict: {text}")


def conclude(planning: MemoryPlanning | None, now: datetime) -> MemoryVerdict | None:
    """Return the verdict, also that there will be none; None while it is awaited."""
    if planning is None or planning.deleting:
        return None
    if planning.verdict is None and _seconds_left(planning, now) <= 0:
        why = f": {one_line(planning.problem)}" if planning.problem else ""
        return unplanned(f"the Job {planning.name} has not ended within {PLAN_SECONDS} seconds{why}")
    return planning.verdict


def gate_start(state: RunState, planning: MemoryPlanning | None, compute: Compute, now: datetime) -> RunState:
    """Return the state of a run that could start for the first time; it still starts if its memory does not forbid it.

    Args:
        state: the state, which starts an attempt.
        planning: the Job that plans; None when there is none.
        compute: what the run asks for.
        now: the current time.
    """
    verdict = conclude(planning, now)
    if verdict is None:
        left = _seconds_left(planning, now) if planning is not None else PLAN_SECONDS
        wait = 1.0 if planning is not None and planning.deleting else max(1.0, left)
        return replace(state, start=None, message=_awaiting(planning), requeue_seconds=wait)
    if verdict.fits is False and not compute.ignore_memory_plan:
        return RunState("False", Reason.DOES_NOT_FIT, refusal(verdict), state.retries)
    return state


def memory_finding(verdict: MemoryVerdict, compute: Compute, started: bool) -> Finding:
    """Return whether the planned memory fits, by a verdict of the pod that plans, or of the trainer.

    Args:
        verdict: the verdict.
        compute: what the run asks for.
        started: whether the verdict is that of a trainer, which says itself what follows from it.
    """
    kind = ConditionType.FITS
    if verdict.fits is None:
        return Finding(kind, "Unknown", Reason.NOT_PLANNED, verdict.message)
    if verdict.fits:
        return Finding(kind, "True", Reason.MEMORY_SUFFICES, verdict.message)
    message = verdict.message
    if not started:
        message = permitted(verdict).message if compute.ignore_memory_plan else refusal(verdict)
    return Finding(kind, "False", Reason.DOES_NOT_FIT, message)


def plan_planning_end(
    planning: MemoryPlanning | None, unwanted: bool, decided: bool, recorded: bool
) -> tuple[list[Deletion], float | None]:
    """Plan the deletion of the Job that plans, after the status has its verdict.

    Args:
        planning: the Job; None when there is none.
        unwanted: whether nothing follows from its verdict any more.
        decided: whether the first attempt has been started, or the job has ended without one.
        recorded: whether that has happened, and the status has the verdict.

    Returns:
        The deletions, and the seconds until one is due; None when none is.
    """
    if planning is None or planning.deleting:
        return [], None
    if unwanted or recorded:
        return [Deletion(JOB, planning.name, planning.uid, "nothing follows from its verdict any more")], None
    return [], RECORD_SECONDS if decided else None


def _seconds_left(planning: MemoryPlanning, now: datetime) -> float:
    waited = (now - planning.created_at).total_seconds() if planning.created_at is not None else 0.0
    return PLAN_SECONDS - waited


def _awaiting(planning: MemoryPlanning | None) -> str:
    """Return what a run waits for, and why that is late: an image or a Secret that is missing keeps trainers, too."""
    # Every Job has no pod at first, which is no problem yet.
    problem = planning.problem if planning is not None and planning.problem != _NO_POD else ""
    return f"{NOT_PLANNED}: {one_line(problem)}" if problem else NOT_PLANNED
