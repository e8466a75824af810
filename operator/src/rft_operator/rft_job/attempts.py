"""Read the attempts of a run from their Jobs, and find out why an attempt failed."""

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


@dataclass(frozen=True)
class Cause:
    """The cause of a failed attempt."""

    code: ExitCode
    """The exit code."""
    reason: str
    """The reason of the exit code; OOMKilled where the kernel killed a container, which has no exit code of its own."""
    message: str
    """The message, with the name of the pod."""


def read_attempt(job: Json) -> Attempt:
    """Read an attempt from its Job."""
    metadata = job["metadata"]
    conditions = [c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"]
    complete = next((c for c in conditions if c["type"] == "Complete"), None)
    failed = next((c for c in conditions if c["type"] == "Failed"), None)
    end = complete or failed
    return Attempt(
        name=metadata["name"],
        uid=metadata["uid"],
        number=int(metadata["labels"][names.ATTEMPT]),
        retries_before=int(metadata.get("annotations", {}).get(names.RETRIES_BEFORE, "0")),
        waiting_in_queue=bool(job["spec"].get("suspend")),
        deleting="deletionTimestamp" in metadata,
        outcome=Outcome.SUCCEEDED if complete else _failed_outcome(failed) if failed else Outcome.UNFINISHED,
        ended_at=None if end is None else parse_timestamp(end.get("lastTransitionTime")),
        failure_text="" if failed is None else str(failed.get("message", "")),
    )


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
