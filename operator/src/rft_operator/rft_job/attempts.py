"""Read the attempts of a run from their Jobs and pods, and find out why an attempt failed.

The end of the main containers is the end of an attempt. Where other containers run on in its pods, such as the proxy of
a service mesh, or end with an error of their own, the Job says nothing, or the wrong thing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.exit_codes import ExitCode
from rft_api.model import Json
from rft_api.termination import parse_failure
from rft_operator.kube.timestamps import parse_timestamp
from rft_operator.pods.pod_view import OOM_KILLED, PodView, Termination
from rft_operator.rft_job import names
from rft_operator.rft_job.objects import RULE_DISRUPTION, RULE_INTERRUPTED, RULE_PERMANENT


class Outcome(enum.Enum):
    """The outcome of an attempt."""

    UNFINISHED = "unfinished"
    SUCCEEDED = "succeeded"
    PERMANENT = "failed, and would fail again"
    RETRIABLE = "failed for a reason that may pass"
    INTERRUPTED = "was interrupted: a lost node, a deleted pod"


@dataclass(frozen=True)
class Attempt:
    """An attempt: one start of a run, as one Job."""

    name: str
    """Name of the Job."""
    uid: str
    """Uid of the Job."""
    number: int
    """Number of the attempt, from 0."""
    retries_before: int
    """Number of failures before the attempt that count against the limit of retries."""
    waiting_in_queue: bool
    """Whether Kueue has not admitted the Job."""
    deleting: bool
    """Whether the deletion of the Job has begun."""
    outcome: Outcome
    """The outcome."""
    ended_at: datetime | None
    """When the Job ended; None while it has not."""
    failure_text: str
    """The message with which Kubernetes reports the failure of the Job."""
    pods: int = 1
    """Number of pods that the Job creates."""
    started_at: datetime | None = None
    """When the Job began to create pods."""
    ending: bool = False
    """Whether Kubernetes has decided how the Job ends, and waits for its pods."""


@dataclass(frozen=True)
class Cause:
    """The cause of a failed attempt."""

    code: ExitCode
    """The exit code."""
    reason: str
    """The reason of the exit code; OOMKilled where the kernel killed a container, which has no exit code of its own."""
    message: str
    """The message, with the name of the pod."""


def read_attempt(job: Json, pods: Sequence[PodView]) -> Attempt:
    """Read an attempt.

    Args:
        job: its Job.
        pods: the pods of the run.
    """
    metadata = job["metadata"]
    conditions = [c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"]
    complete = next((c for c in conditions if c["type"] == "Complete"), None)
    failed = next((c for c in conditions if c["type"] == "Failed"), None)
    end = complete or failed
    count, suspended = job["spec"].get("parallelism", 1), bool(job["spec"].get("suspend"))
    deleting = "deletionTimestamp" in metadata
    own = [pod for pod in pods if pod.job_uid == metadata["uid"]]
    outcome = Outcome.SUCCEEDED if complete else _failed_outcome(failed) if failed else Outcome.UNFINISHED
    ended_at = None if end is None else parse_timestamp(end.get("lastTransitionTime"))
    decided = None if complete or deleting else _outcome_of_pods(own, count, suspended or failed is not None)
    if decided is not None:
        outcome = decided
        ended_at = ended_at or max(
            (pod.termination.finished_at for pod in own if pod.termination and pod.termination.finished_at),
            default=None,
        )
    return Attempt(
        name=metadata["name"],
        uid=metadata["uid"],
        number=int(metadata["labels"][names.ATTEMPT]),
        retries_before=int(metadata.get("annotations", {}).get(names.RETRIES_BEFORE, "0")),
        waiting_in_queue=suspended,
        deleting=deleting,
        outcome=outcome,
        ended_at=ended_at,
        failure_text="" if failed is None else str(failed.get("message", "")),
        pods=count,
        started_at=parse_timestamp(job.get("status", {}).get("startTime") or metadata.get("creationTimestamp")),
        ending=any(c["type"] in ("FailureTarget", "SuccessCriteriaMet") for c in conditions),
    )


def _outcome_of_pods(pods: Sequence[PodView], count: int, knows_failures: bool) -> Outcome | None:
    """Return the outcome by the ends of the main containers; None where the Job alone says it.

    Failures are ordered as by the rules of the Job.

    Args:
        pods: the pods of the attempt.
        count: the number of pods that it should have.
        knows_failures: whether the Job says how pods have failed, or starts them again because it was suspended.
    """
    codes = [pod.termination.exit_code for pod in pods if pod.terminated and pod.termination is not None]
    if len(codes) == count and not any(codes):
        return Outcome.SUCCEEDED
    failures = [pod for pod in pods if pod.lingers and pod.termination is not None and pod.termination.exit_code]
    if knows_failures or not failures:
        return None
    ends = {_code(pod.termination.exit_code) for pod in failures if pod.termination is not None}
    if any(code.permanent for code in ends):
        return Outcome.PERMANENT
    interrupted = ExitCode.INTERRUPTED in ends or any(pod.disrupted for pod in failures)
    return Outcome.INTERRUPTED if interrupted else Outcome.RETRIABLE


def _failed_outcome(condition: Json) -> Outcome:
    # The message of the Job controller ends with "... matching FailJob rule at index 1".
    match = re.search(r"rule at index (\d+)", condition.get("message", ""))
    if condition.get("reason") != "PodFailurePolicy" or match is None:
        return Outcome.RETRIABLE
    outcomes = {
        RULE_PERMANENT: Outcome.PERMANENT,
        RULE_DISRUPTION: Outcome.INTERRUPTED,
        RULE_INTERRUPTED: Outcome.INTERRUPTED,
    }
    return outcomes.get(int(match.group(1)), Outcome.RETRIABLE)


def find_cause(attempt: Attempt, pods: Sequence[PodView]) -> Cause:
    """Find the cause of a failed attempt among the terminations of its pods.

    Permanent errors come first, then pods that the kernel killed because their memory ran out, then the pod that
    terminated first: the other pods fail because one of them is gone.
    """
    terminations = [
        (pod, pod.termination)
        for pod in pods
        if pod.job_uid == attempt.uid and pod.termination is not None and pod.termination.exit_code != 0
    ]
    if not terminations:
        match = re.search(r"exit code (\d+)", attempt.failure_text)
        code = _code(int(match.group(1)) if match else 1)
        return Cause(code, code.reason, attempt.failure_text)

    def rank(entry: tuple[PodView, Termination]) -> tuple[bool, bool, float, str]:
        pod, termination = entry
        finished = termination.finished_at.timestamp() if termination.finished_at else 0.0
        return not _code(termination.exit_code).permanent, not termination.oom_killed, finished, pod.name

    pod, termination = min(terminations, key=rank)
    text = parse_failure(termination.message).message or f"the trainer ended with exit code {termination.exit_code}"
    code = _code(termination.exit_code)
    return Cause(code, OOM_KILLED if termination.oom_killed else code.reason, f"pod {pod.name}: {text}")


def _code(number: int) -> ExitCode:
    return ExitCode(number) if number in set(ExitCode) else ExitCode.UNEXPECTED
