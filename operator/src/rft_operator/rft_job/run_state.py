"""Decide the state of a training run, and whether an attempt is started or stopped.

| newest attempt | desired | decision |
|---|---|---|
| succeeded | | Succeeded |
| failed, permanent | | the run has ended with the reason of the exit code |
| failed, may succeed when retried; retries are left | run | wait, then start the next attempt; counted |
| failed, may succeed when retried; no retries are left | | RetriesExhausted |
| interrupted | run | start the next attempt, at most one in ten seconds; not counted |
| unfinished | run | Queued, Starting or Running |
| unfinished, its pods do not exist or do not start | run | why: PodsMissing, Unschedulable, ImagePullFailed, ... |
| unfinished | suspended, or beyond a limit | delete its Job; its pods save a checkpoint |
| none, but pods of an earlier one are still ending | | Stopping: two attempts never write to one output |
| none | run | start the first attempt when the rewards are ready |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rft_api.conditions import ConditionType, Reason, is_end
from rft_api.progress import Progress, running_message
from rft_api.quantities import decimal_text, duration_seconds
from rft_api.rft_job import Limits
from rft_operator.pods.late import Awaited, awaited_pods, blocked_pod, late_uids
from rft_operator.pods.pod_view import PodView, first_problem, first_sidecar_failure
from rft_operator.rft_job.attempts import Attempt, Outcome, find_cause
from rft_operator.status.conditions import Truth
from rft_operator.status.reasons import reason_of

FIRST_BACKOFF_SECONDS = 10
LONGEST_BACKOFF_SECONDS = 300
POD_STATUS_SECONDS = 10
"""Seconds to wait for the termination of a pod, which says why its Job has ended, after the Job has ended."""
# One message for all stages of the start, because every change of it would write the status.
_STARTING = "the pods of the trainer are being created and started"
_SUSPENDED = "spec.suspend is true"


@dataclass(frozen=True)
class RunFacts:
    """Everything on which the decision depends."""

    suspend: bool
    """Whether the job is suspended."""
    limits: Limits
    """The limits of the job."""
    attempts: Sequence[Attempt]
    """The attempts, ordered by their numbers."""
    pods: Sequence[PodView]
    """The pods of all attempts."""
    progress: Progress | None
    """The current progress of the trainer; None when the trainer did not answer."""
    start_time: datetime | None
    """When training first started; None before that."""
    gpu_seconds: int
    """Number of GPU seconds that the job has used."""
    blocked: tuple[Reason, str] | None
    """Why no attempt may start now; None when one may."""
    now: datetime
    """The current time."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What events say about late objects, by uid."""


@dataclass(frozen=True)
class RunState:
    """The decision."""

    status: Truth
    """Status of the condition Succeeded."""
    reason: Reason
    """Reason of the condition."""
    message: str = ""
    """Message of the condition."""
    retries: int = 0
    """Number of failures that count against the limit of retries."""
    start: int | None = None
    """Number of the attempt to start; None when none is started."""
    stop: Attempt | None = None
    """The attempt whose Job is deleted; None when none is stopped."""
    why: str = ""
    """Why the attempt is started or stopped."""
    requeue_seconds: float | None = None
    """Seconds after which to decide again; None when only a change can alter the decision."""

    @property
    def ended(self) -> bool:
        """Whether the run has ended, with a result or without one."""
        return is_end(ConditionType.SUCCEEDED, self.status)


def decide_run_state(facts: RunFacts) -> RunState:
    """Decide the state of a run; see the table above."""
    newest = facts.attempts[-1] if facts.attempts else None
    if newest is not None and newest.outcome is Outcome.SUCCEEDED:
        return RunState("True", Reason.SUCCEEDED, retries=newest.retries_before)
    exceeded = _exceeded(facts)
    if exceeded is not None:
        return _stop(facts, newest, "False", *exceeded, why=exceeded[1])
    if newest is None:
        return _start(facts, 0, 0, "the run starts")
    match newest.outcome:
        case Outcome.PERMANENT:
            cause = find_cause(newest, facts.pods)
            reason = reason_of(cause.code) if cause.code.permanent else Reason.CONFIGURATION_INVALID
            return RunState("False", reason, cause.message, newest.retries_before)
        case Outcome.RETRIABLE:
            return _retry(facts, newest)
        case Outcome.INTERRUPTED:
            return _restart(facts, newest)
    if facts.suspend or newest.deleting:
        return _stop(
            facts, newest, "Unknown", Reason.SUSPENDED if facts.suspend else Reason.STARTING, "", why=_SUSPENDED
        )
    return _running_state(facts, newest)


def _exceeded(facts: RunFacts) -> tuple[Reason, str] | None:
    limits = facts.limits
    if limits.deadline is not None and facts.start_time is not None:
        end = facts.start_time + timedelta(seconds=duration_seconds(limits.deadline))
        if facts.now >= end:
            return Reason.DEADLINE_EXCEEDED, f"limits.deadline: {limits.deadline} have passed since training started"
    if limits.gpu_hours is not None and facts.gpu_seconds >= limits.gpu_hours * 3600:
        return Reason.GPU_HOURS_EXCEEDED, f"limits.gpuHours: {decimal_text(limits.gpu_hours)} GPU hours are used up"
    return None


def _stop(facts: RunFacts, newest: Attempt | None, status: Truth, reason: Reason, message: str, why: str) -> RunState:
    """Stop the newest attempt; the given state is reached when all pods have ended.

    Args:
        facts: the facts.
        newest: the newest attempt.
        status: status of the condition afterwards.
        reason: reason of the condition afterwards.
        message: message of the condition afterwards.
        why: why the attempt is stopped.
    """
    retries = newest.retries_before if newest is not None else 0
    stop = newest if newest is not None and newest.outcome is Outcome.UNFINISHED and not newest.deleting else None
    active = [pod for pod in facts.pods if pod.active and not pod.lingers]
    if stop is not None or active or (newest is not None and newest.deleting):
        text = f"{len(active)} pods are saving a checkpoint and ending"
        # An exceeded limit is final at once: raising the limit later must not resume the job.
        if status == "False":
            return RunState(status, reason, message, retries, stop=stop, why=why)
        return RunState("Unknown", Reason.STOPPING, text, retries, stop=stop, why=why)
    return RunState(status, reason, message, retries)


def _retry(facts: RunFacts, failed: Attempt) -> RunState:
    cause = find_cause(failed, facts.pods)
    retries = failed.retries_before + 1
    if retries > facts.limits.retries:
        text = f"attempt {failed.number + 1} failed with {cause.reason}: {cause.message}"
        return RunState("False", Reason.RETRIES_EXHAUSTED, text, failed.retries_before)
    text = f"retry {retries} of {facts.limits.retries} after {cause.reason}: {cause.message}"
    if facts.suspend:
        return _start(facts, failed.number + 1, retries, text)
    wait = 0.0
    if failed.ended_at is not None:
        backoff = min(FIRST_BACKOFF_SECONDS * 2 ** (retries - 1), LONGEST_BACKOFF_SECONDS)
        wait = (failed.ended_at + timedelta(seconds=backoff) - facts.now).total_seconds()
    if wait > 0:
        return RunState("Unknown", Reason.RETRYING, text, retries, requeue_seconds=wait)
    return _start(facts, failed.number + 1, retries, text)


def _restart(facts: RunFacts, interrupted: Attempt) -> RunState:
    why, retries = f"attempt {interrupted.number + 1} was interrupted", interrupted.retries_before
    if interrupted.started_at is not None and not facts.suspend:
        # Interruptions do not count, so a pod that ends at once would otherwise be replaced as fast as pods can start.
        wait = (interrupted.started_at + timedelta(seconds=FIRST_BACKOFF_SECONDS) - facts.now).total_seconds()
        if wait > 0:
            return RunState("Unknown", Reason.RETRYING, why, retries, requeue_seconds=wait)
    return _start(facts, interrupted.number + 1, retries, why)


def _start(facts: RunFacts, number: int, retries: int, why: str) -> RunState:
    active = [pod for pod in facts.pods if pod.active and not pod.lingers]
    if active:
        return RunState("Unknown", Reason.STOPPING, f"{len(active)} pods of the last attempt are still ending", retries)
    if facts.suspend:
        return RunState("Unknown", Reason.SUSPENDED, _SUSPENDED, retries)
    if facts.blocked is not None:
        return RunState("Unknown", *facts.blocked, retries)
    return RunState("Unknown", Reason.STARTING, _STARTING, retries, start=number, why=why)


def _running_state(facts: RunFacts, newest: Attempt) -> RunState:
    retries = newest.retries_before
    if newest.waiting_in_queue:
        return RunState("Unknown", Reason.QUEUED, "waiting for Kueue to admit the job", retries)
    pods = [pod for pod in facts.pods if pod.job_uid == newest.uid]
    problem = first_problem(pods) or _late_problem(facts, newest, pods) or _sidecar_problem(pods)
    if problem is not None:
        return RunState("Unknown", *problem, retries)
    if pods and all(pod.running_since is not None for pod in pods):
        text = running_message(facts.progress) if facts.progress is not None else ""
        return RunState("Unknown", Reason.RUNNING, text, retries)
    return RunState("Unknown", Reason.STARTING, _STARTING, retries)


def awaited_objects(newest: Attempt | None, pods: Sequence[PodView]) -> list[Awaited]:
    """Return what an attempt waits for without a reason in a status: pods that do not exist, or do not start."""
    if newest is None or newest.outcome is not Outcome.UNFINISHED:
        return []
    if newest.waiting_in_queue or newest.deleting or newest.ending:
        return []
    own = [pod for pod in pods if pod.job_uid == newest.uid]
    awaited = awaited_pods(own)
    if len(own) < newest.pods and newest.started_at is not None:
        awaited.append(Awaited(newest.uid, newest.started_at))
    return awaited


def _late_problem(facts: RunFacts, newest: Attempt, pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    late = late_uids(awaited_objects(newest, pods), facts.now)
    if newest.uid in late:
        why = facts.warnings.get(newest.uid, "no event says why")
        return Reason.PODS_MISSING, f"{len(pods)} of {newest.pods} pods exist: {why}"
    return blocked_pod(pods, facts.warnings)


def _sidecar_problem(pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    """Return the failure of another container because of which a trainer does not start."""
    return first_sidecar_failure([pod for pod in pods if pod.running_since is None])


def awaits_pod_status(newest: Attempt | None, pods: Sequence[PodView], now: datetime) -> bool:
    """Return whether an attempt has just ended and the status of its pods has not arrived yet.

    The watches of Jobs and of pods are independent, so the end of a Job may arrive before those of its pods.
    """
    if newest is None or newest.ended_at is None:
        return False
    if any(pod.job_uid == newest.uid and pod.termination is not None and pod.terminated for pod in pods):
        return False
    return (now - newest.ended_at).total_seconds() < POD_STATUS_SECONDS
