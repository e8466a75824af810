"""Reads pods as the API server gives them: where each stands and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.model import Json
from rft_operator.kube.kinds import JOB
from rft_operator.kube.timestamps import parse_moment
from rft_operator.status.reasons import Reason

OOM_KILLED = "OOMKilled"
"""Kubernetes' reason of a container that the kernel killed because its memory ran out."""
_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
_PULL_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_BLOCK_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


@dataclass(frozen=True)
class Ending:
    """How a container ended."""

    exit_code: int
    message: str
    """Its termination message, or what Kubernetes says of its end."""
    finished_at: datetime | None
    oom_killed: bool = False
    """Whether the kernel killed it because its memory ran out."""


@dataclass(frozen=True)
class PodView:
    """What the operator reads of a pod."""

    name: str
    ip: str | None
    phase: str
    ready: bool
    deleting: bool
    job_uid: str | None
    """The Job that made it, if one did."""
    index: int | None
    """Completion index of a trainer pod."""
    created_at: datetime | None
    start_time: datetime | None
    """When a node took the pod: from then on it holds its GPUs."""
    running_since: datetime | None
    """When its main container first started, as far as it is known."""
    ending: Ending | None
    """How its main container ended, now or before its last restart."""
    ended: bool
    """Whether the main container is not running because it has ended."""
    problem: tuple[Reason, str] | None
    """Why it does not start, if so."""

    @property
    def active(self) -> bool:
        """Whether processes of it may be running."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def end_time(self) -> datetime | None:
        """When it stopped holding its GPUs; none while it does."""
        return None if self.active or self.ending is None else self.ending.finished_at


def read_pod(pod: Json, container: str) -> PodView:
    """The view of a pod whose main container has this name."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    initial = status.get("initContainerStatuses", [])
    statuses = [*initial, *status.get("containerStatuses", [])]
    # The main container does not start for as long as one before it fails: that one tells why.
    failing = next((entry for entry in initial if _has_failed(entry)), None)
    main: Json = failing or next((entry for entry in statuses if entry["name"] == container), {})
    state, last = main.get("state", {}), main.get("lastState", {})
    terminated = state.get("terminated") or last.get("terminated")
    running = state.get("running") or state.get("terminated") or last.get("terminated") or {}
    index = labels.get(_COMPLETION_INDEX)
    job: Json = next((owner for owner in metadata.get("ownerReferences", []) if owner["kind"] == JOB.name), {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    return PodView(
        name=metadata["name"],
        ip=status.get("podIP"),
        phase=status.get("phase", "Pending"),
        ready=ready,
        deleting="deletionTimestamp" in metadata,
        job_uid=job.get("uid"),
        index=None if index is None else int(index),
        created_at=parse_moment(metadata.get("creationTimestamp")),
        start_time=parse_moment(status.get("startTime")),
        running_since=parse_moment(running.get("startedAt")),
        ending=None if terminated is None else _ending(terminated),
        ended="terminated" in state or ("waiting" in state and terminated is not None),
        problem=_problem(metadata["name"], status, statuses),
    )


def worst_problem(pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    """What keeps pods from starting: the first problem, by pod name."""
    return next((pod.problem for pod in sorted(pods, key=lambda pod: pod.name) if pod.problem is not None), None)


def _has_failed(entry: Json) -> bool:
    state, last = entry.get("state", {}), entry.get("lastState", {})
    ended: Json | None = state.get("terminated") or (last.get("terminated") if "waiting" in state else None)
    return ended is not None and ended["exitCode"] != 0


def _ending(terminated: Json) -> Ending:
    message = terminated.get("message", "").strip()
    oom_killed = terminated.get("reason") == OOM_KILLED
    if oom_killed:
        # The end of the log, which stands in for a message, knows nothing of it.
        message = (
            f"the kernel ended the container because its memory ran out ({OOM_KILLED}): raise the memory limit in the "
            f"pod's resources, or use less memory"
        )
    elif not message and terminated.get("reason") not in (None, "Error", "Completed"):
        message = str(terminated["reason"])
    return Ending(int(terminated["exitCode"]), message, parse_moment(terminated.get("finishedAt")), oom_killed)


def _problem(name: str, status: Json, statuses: list[Json]) -> tuple[Reason, str] | None:
    # Once a node has taken the pod, what the scheduler said is of the past.
    for condition in status.get("conditions", []) if not status.get("startTime") else []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Reason.UNSCHEDULABLE, f"pod {name}: {condition.get('message', 'no node has room')}"
    for entry in statuses:
        waiting = entry.get("state", {}).get("waiting", {})
        reason = waiting.get("reason")
        text = f"pod {name}, container {entry['name']}: {reason}: {waiting.get('message', '')}".rstrip(": ")
        if reason in _PULL_REASONS:
            return Reason.IMAGE_PULL_FAILED, text
        if reason in _BLOCK_REASONS:
            return Reason.CONTAINER_BLOCKED, text
    return None
