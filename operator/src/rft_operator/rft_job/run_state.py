"""Decides where a training run stands and what its pods should do next.

| newest attempt | wanted | then |
|---|---|---|
| succeeded | | Succeeded |
| failed, permanent | | ended with the exit code's reason |
| failed, retriable, tries left | run | wait, then the next attempt; counted |
| failed, retriable, none left | | RetriesExhausted |
| stopped from outside | run | the next attempt; not counted |
| unfinished | run | Queued, Starting or Running |
| unfinished | suspended, or over a limit | its Job is deleted; its pods save a checkpoint |
| none, and pods of one still end | | Stopping: two attempts never write to one output |
| none | run | the first attempt, once the rewards are ready |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rft_api.progress import Progress
from rft_api.quantities import decimal_text, duration_seconds
from rft_api.rft_job import Limits
from rft_operator.pods.pod_view import PodView, worst_problem
from rft_operator.rft_job.attempts import Attempt, Outcome, find_cause
from rft_operator.rft_job.end import is_end
from rft_operator.status.conditions import Truth
from rft_operator.status.reasons import ConditionType, Reason, reason_of

FIRST_BACKOFF_SECONDS = 10
LONGEST_BACKOFF_SECONDS = 300
POD_NEWS_SECONDS = 10
"""How long a Job's end may be known before its pods' is: their messages say why it ended."""
# The same from the first moment on: a status is dear to write.
_STARTING = "the trainer's pods are being created and started"
_SUSPENDED = "spec.suspend is true"


@dataclass(frozen=True)
class RunFacts:
    """What the decision depends on."""

    suspend: bool
    limits: Limits
    attempts: Sequence[Attempt]
    """By number."""
    pods: Sequence[PodView]
    progress: Progress | None
    start_time: datetime | None
    """When training first started."""
    gpu_seconds: int
    blocked: tuple[Reason, str] | None
    """Why no attempt may start now, if so."""
    now: datetime


@dataclass(frozen=True)
class RunState:
    """The decision."""

    status: Truth
    reason: Reason
    message: str = ""
    retries: int = 0
    """Counted failures so far."""
    start: int | None = None
    """Number of the attempt to start."""
    stop: Attempt | None = None
    """Attempt whose Job is to be deleted."""
    why: str = ""
    """Why the attempt is started or stopped."""
    requeue_seconds: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has ended, with a result or without one."""
        return is_end(ConditionType.SUCCEEDED, self.status)


def decide_run_state(facts: RunFacts) -> RunState:
    """Where the run stands; see the table above."""
    newest = facts.attempts[-1] if facts.attempts else None
    if newest is not None and newest.outcome is Outcome.SUCCEEDED:
        return RunState("True", Reason.SUCCEEDED, retries=newest.retries_before)
    exceeded = _exceeded(facts)
    if exceeded is not None:
        return _halt(facts, newest, "False", *exceeded, why=exceeded[1])
    if newest is None:
        return _start(facts, 0, 0, "the run starts")
    match newest.outcome:
        case Outcome.PERMANENT:
            cause = find_cause(newest, facts.pods)
            reason = reason_of(cause.code) if cause.code.permanent else Reason.CONFIGURATION_INVALID
            return RunState("False", reason, cause.message, newest.retries_before)
        case Outcome.RETRIABLE:
            return _retry(facts, newest)
        case Outcome.STOPPED:
            why = f"attempt {newest.number + 1} was stopped from outside, and the run goes on"
            return _start(facts, newest.number + 1, newest.retries_before, why)
    if facts.suspend or newest.deleting:
        return _halt(
            facts, newest, "Unknown", Reason.SUSPENDED if facts.suspend else Reason.STARTING, "", why=_SUSPENDED
        )
    return _going(facts, newest)


def _exceeded(facts: RunFacts) -> tuple[Reason, str] | None:
    limits = facts.limits
    if limits.deadline is not None and facts.start_time is not None:
        end = facts.start_time + timedelta(seconds=duration_seconds(limits.deadline))
        if facts.now >= end:
            return Reason.DEADLINE_EXCEEDED, f"limits.deadline: {limits.deadline} have passed since the start"
    if limits.gpu_hours is not None and facts.gpu_seconds >= limits.gpu_hours * 3600:
        return Reason.GPU_HOURS_EXCEEDED, f"limits.gpuHours: {decimal_text(limits.gpu_hours)} GPU hours are used up"
    return None


def _halt(facts: RunFacts, newest: Attempt | None, status: Truth, reason: Reason, message: str, why: str) -> RunState:
    """Stops what runs, for the reason in `why`, and comes to rest in the given state when it has."""
    retries = newest.retries_before if newest is not None else 0
    stop = newest if newest is not None and newest.outcome is Outcome.UNFINISHED and not newest.deleting else None
    active = [pod for pod in facts.pods if pod.active]
    if stop is not None or active or (newest is not None and newest.deleting):
        text = f"{len(active)} pods save a checkpoint and end"
        # A limit that is exceeded is final at once: raising it later must not bring the job back to life.
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
        pause = min(FIRST_BACKOFF_SECONDS * 2 ** (retries - 1), LONGEST_BACKOFF_SECONDS)
        wait = (failed.ended_at + timedelta(seconds=pause) - facts.now).total_seconds()
    if wait > 0:
        return RunState("Unknown", Reason.RETRYING, text, retries, requeue_seconds=wait)
    return _start(facts, failed.number + 1, retries, text)


def _start(facts: RunFacts, number: int, retries: int, why: str) -> RunState:
    active = [pod for pod in facts.pods if pod.active]
    if active:
        return RunState("Unknown", Reason.STOPPING, f"{len(active)} pods of the last attempt still end", retries)
    if facts.suspend:
        return RunState("Unknown", Reason.SUSPENDED, _SUSPENDED, retries)
    if facts.blocked is not None:
        return RunState("Unknown", *facts.blocked, retries)
    return RunState("Unknown", Reason.STARTING, _STARTING, retries, start=number, why=why)


def _going(facts: RunFacts, newest: Attempt) -> RunState:
    retries = newest.retries_before
    if newest.waiting_in_queue:
        return RunState("Unknown", Reason.QUEUED, "waiting for Kueue to admit the job", retries)
    pods = [pod for pod in facts.pods if pod.job_uid == newest.uid]
    problem = worst_problem(pods)
    if problem is not None:
        return RunState("Unknown", *problem, retries)
    if pods and all(pod.running_since is not None for pod in pods):
        text = ""
        if facts.progress is not None:
            text = f"{facts.progress.phase}: {facts.progress.message}".rstrip(": ")
        return RunState("Unknown", Reason.RUNNING, text, retries)
    return RunState("Unknown", Reason.STARTING, _STARTING, retries)


def awaits_pod_news(newest: Attempt | None, pods: Sequence[PodView], now: datetime) -> bool:
    """Whether an attempt has just ended and no pod has said how: the watches of Jobs and pods are not in step."""
    if newest is None or newest.ended_at is None:
        return False
    if any(pod.job_uid == newest.uid and pod.ending is not None and pod.ended for pod in pods):
        return False
    return (now - newest.ended_at).total_seconds() < POD_NEWS_SECONDS
