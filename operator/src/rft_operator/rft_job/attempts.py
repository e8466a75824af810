"""Reads the Jobs of a run's attempts as the API server gives them, and why each ended."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.exit_codes import ExitCode
from rft_api.model import Json
from rft_api.termination import parse_failure
from rft_operator.kube.timestamps import parse_moment
from rft_operator.pods.pod_view import OOM_KILLED, Ending, PodView
from rft_operator.rft_job import names
from rft_operator.rft_job.objects import RULE_DISRUPTION, RULE_INTERRUPTED, RULE_PERMANENT


class Outcome(enum.Enum):
    """Where an attempt stands."""

    UNFINISHED = "unfinished"
    SUCCEEDED = "succeeded"
    PERMANENT = "failed, and would fail again"
    RETRIABLE = "failed for a reason that may pass"
    STOPPED = "was stopped from outside: a lost node, a deleted pod"


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    name: str
    uid: str
    number: int
    retries_before: int
    """Counted failures before it."""
    waiting_in_queue: bool
    deleting: bool
    outcome: Outcome
    ended_at: datetime | None
    failure_text: str
    """What Kubernetes says of its failure."""


@dataclass(frozen=True)
class Cause:
    """Why an attempt failed."""

    code: ExitCode
    reason: str
    """The exit code's reason; Kubernetes' OOMKilled where the kernel ended a pod, which no exit code tells."""
    message: str


def read_attempt(job: Json) -> Attempt:
    """The view of a training Job."""
    metadata = job["metadata"]
    conditions = [c for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"]
    complete = next((c for c in conditions if c["type"] == "Complete"), None)
    failed = next((c for c in conditions if c["type"] == "Failed"), None)
    ended = complete or failed
    return Attempt(
        name=metadata["name"],
        uid=metadata["uid"],
        number=int(metadata["labels"][names.ATTEMPT]),
        retries_before=int(metadata.get("annotations", {}).get(names.RETRIES_BEFORE, "0")),
        waiting_in_queue=bool(job["spec"].get("suspend")),
        deleting="deletionTimestamp" in metadata,
        outcome=Outcome.SUCCEEDED if complete else _failed_outcome(failed) if failed else Outcome.UNFINISHED,
        ended_at=None if ended is None else parse_moment(ended.get("lastTransitionTime")),
        failure_text="" if failed is None else str(failed.get("message", "")),
    )


def _failed_outcome(condition: Json) -> Outcome:
    # The Job controller's words: "... matching FailJob rule at index 1".
    match = re.search(r"rule at index (\d+)", condition.get("message", ""))
    if condition.get("reason") != "PodFailurePolicy" or match is None:
        return Outcome.RETRIABLE
    outcomes = {
        RULE_PERMANENT: Outcome.PERMANENT,
        RULE_DISRUPTION: Outcome.STOPPED,
        RULE_INTERRUPTED: Outcome.STOPPED,
    }
    return outcomes.get(int(match.group(1)), Outcome.RETRIABLE)


def find_cause(attempt: Attempt, pods: Sequence[PodView]) -> Cause:
    """Why a failed attempt failed: what its pods say, the permanent errors first, then who ended first.

    A pod that the kernel killed for its memory counts before those that only noticed that it was gone.
    """
    endings = [
        (pod, pod.ending)
        for pod in pods
        if pod.job_uid == attempt.uid and pod.ending is not None and pod.ending.exit_code != 0
    ]
    if not endings:
        match = re.search(r"exit code (\d+)", attempt.failure_text)
        code = _code(int(match.group(1)) if match else 1)
        return Cause(code, code.reason, attempt.failure_text)

    def rank(entry: tuple[PodView, Ending]) -> tuple[bool, bool, float, str]:
        pod, ending = entry
        finished = ending.finished_at.timestamp() if ending.finished_at else 0.0
        return not _code(ending.exit_code).permanent, not ending.oom_killed, finished, pod.name

    pod, ending = min(endings, key=rank)
    text = parse_failure(ending.message).message or f"the trainer ended with exit code {ending.exit_code}"
    code = _code(ending.exit_code)
    return Cause(code, OOM_KILLED if ending.oom_killed else code.reason, f"pod {pod.name}: {text}")


def _code(number: int) -> ExitCode:
    return ExitCode(number) if number in set(ExitCode) else ExitCode.UNEXPECTED
