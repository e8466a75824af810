"""Read the state of pods from the objects of the API server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.model import Json
from rft_operator.kube.kinds import JOB
from rft_operator.kube.timestamps import parse_timestamp
from rft_operator.status.reasons import Reason

OOM_KILLED = "OOMKilled"
"""Reason with which Kubernetes reports a container that the kernel killed because its memory ran out."""
_COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
_PULL_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_BLOCK_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


@dataclass(frozen=True)
class Termination:
    """The termination of a container."""

    exit_code: int
    message: str
    """The termination message, or the reason that Kubernetes gives."""
    finished_at: datetime | None
    """When the container terminated."""
    oom_killed: bool = False
    """Whether the kernel killed the container because its memory ran out."""


@dataclass(frozen=True)
class PodView:
    """The state of a pod."""

    name: str
    """Name of the pod."""
    ip: str | None
    """IP address of the pod; None before it has one."""
    phase: str
    """Phase of the pod, as Kubernetes gives it."""
    ready: bool
    """Whether the pod is ready."""
    deleting: bool
    """Whether the deletion of the pod has begun."""
    job_uid: str | None
    """Uid of the Job that created the pod; None for pods of other controllers."""
    index: int | None
    """Completion index of a trainer's pod; None for other pods."""
    created_at: datetime | None
    """When the pod was created."""
    start_time: datetime | None
    """When a node accepted the pod: from then on the pod holds its GPUs."""
    running_since: datetime | None
    """When the main container first started, as far as Kubernetes still knows it."""
    termination: Termination | None
    """The termination of the main container, now or before its last restart."""
    terminated: bool
    """Whether the main container has terminated and does not run again."""
    problem: tuple[Reason, str] | None
    """Why the pod does not start; None when nothing prevents it."""

    @property
    def active(self) -> bool:
        """Whether processes of the pod may be running."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def end_time(self) -> datetime | None:
        """When the pod released its GPUs; None while it holds them."""
        return None if self.active or self.termination is None else self.termination.finished_at


def read_pod(pod: Json, container: str) -> PodView:
    """Read the state of a pod.

    Args:
        pod: the pod.
        container: the name of its main container.
    """
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    initial = status.get("initContainerStatuses", [])
    statuses = [*initial, *status.get("containerStatuses", [])]
    # The main container does not start while an init container fails, so the state of that one is reported.
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
        created_at=parse_timestamp(metadata.get("creationTimestamp")),
        start_time=parse_timestamp(status.get("startTime")),
        running_since=parse_timestamp(running.get("startedAt")),
        termination=None if terminated is None else _read_termination(terminated),
        terminated="terminated" in state or ("waiting" in state and terminated is not None),
        problem=_problem(metadata["name"], status, statuses),
    )


def first_problem(pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    """Return the problem of the first pod, by name, that does not start; None when no pod has a problem."""
    return next((pod.problem for pod in sorted(pods, key=lambda pod: pod.name) if pod.problem is not None), None)


def _has_failed(entry: Json) -> bool:
    state, last = entry.get("state", {}), entry.get("lastState", {})
    terminated: Json | None = state.get("terminated") or (last.get("terminated") if "waiting" in state else None)
    return terminated is not None and terminated["exitCode"] != 0


def _read_termination(terminated: Json) -> Termination:
    message = terminated.get("message", "").strip()
    oom_killed = terminated.get("reason") == OOM_KILLED
    if oom_killed:
        # The message is then the end of the log, which does not mention the reason.
        message = (
            f"the kernel ended the container because its memory ran out ({OOM_KILLED}): raise the memory limit in the "
            f"pod's resources, or use less memory"
        )
    elif not message and terminated.get("reason") not in (None, "Error", "Completed"):
        message = str(terminated["reason"])
    return Termination(int(terminated["exitCode"]), message, parse_timestamp(terminated.get("finishedAt")), oom_killed)


def _problem(name: str, status: Json, statuses: list[Json]) -> tuple[Reason, str] | None:
    # The scheduler's condition is out of date once a node has accepted the pod.
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
