"""Read the state of pods from the objects of the API server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rft_api.conditions import Reason
from rft_api.model import Json
from rft_api.object_labels import COMPLETION_INDEX
from rft_operator.kube.kinds import JOB
from rft_operator.kube.timestamps import parse_timestamp

OOM_KILLED = "OOMKilled"
"""Reason with which Kubernetes reports a container that the kernel killed because its memory ran out."""
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
    namespace: str
    """Namespace of the pod."""
    uid: str
    """Uid of the pod."""
    ip: str | None
    """IP address of the pod; None before it has one."""
    phase: str
    """Phase of the pod, as Kubernetes gives it."""
    ready: bool
    """Whether the pod is ready."""
    deleting: bool
    """Whether the deletion of the pod has begun."""
    told_to_end_at: datetime | None
    """When the deletion of the pod began; None while it has not."""
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
    started: bool
    """Whether any container of the pod has started: its volumes are then mounted and its network exists."""
    disrupted: bool
    """Whether Kubernetes has ended the pod, or is about to: a drained or lost node, a preemption."""
    problem: tuple[Reason, str] | None
    """Why the pod does not start; None when nothing prevents it."""
    sidecar_failure: str | None
    """The failure of a container beside the main one that ends again and again; None when there is none."""
    unready_sidecars: tuple[str, ...]
    """Names of the other containers because of which the pod is not ready; empty until the main one is ready."""

    @property
    def active(self) -> bool:
        """Whether processes of the pod may be running."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def lingers(self) -> bool:
        """Whether the main container ended by itself, and before its pod.

        Containers that others have added, such as a proxy, run on, or did until the pod was deleted. Of use only where
        containers are not restarted.
        """
        if not self.terminated or self.termination is None:
            return False
        finished, deletion = self.termination.finished_at, self.told_to_end_at
        return self.active if deletion is None else finished is not None and finished < deletion

    @property
    def end_time(self) -> datetime | None:
        """When the pod released its GPUs; None while it holds them."""
        return None if self.active or self.termination is None else self.termination.finished_at


def read_pod(pod: Json, container: str) -> PodView:
    """Read the state of a pod.

    Others may have added containers to it, before or after ours.

    Args:
        pod: the pod.
        container: the name of its main container.
    """
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    # An init container that is restarted runs beside the main container and ends after it.
    restarted = {
        init["name"] for init in pod.get("spec", {}).get("initContainers", []) if init.get("restartPolicy") == "Always"
    }
    initial: list[Json] = status.get("initContainerStatuses", [])
    regular: list[Json] = status.get("containerStatuses", [])
    statuses = [*initial, *regular]
    sidecars = [
        *(entry for entry in initial if entry["name"] in restarted),
        *(entry for entry in regular if entry["name"] != container),
    ]
    # The main container does not start while an init container fails, so the state of that one is reported.
    failing = next((entry for entry in initial if entry["name"] not in restarted and _has_failed(entry)), None)
    own: Json = next((entry for entry in statuses if entry["name"] == container), {})
    main = failing or own
    state, last = main.get("state", {}), main.get("lastState", {})
    terminated = state.get("terminated") or last.get("terminated")
    running = state.get("running") or state.get("terminated") or last.get("terminated") or {}
    job: Json = next((owner for owner in metadata.get("ownerReferences", []) if owner["kind"] == JOB.name), {})
    conditions = {condition["type"] for condition in status.get("conditions", []) if condition["status"] == "True"}
    ready = "Ready" in conditions
    unready = own.get("ready", False) and not ready
    return PodView(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        ip=status.get("podIP"),
        phase=status.get("phase", "Pending"),
        ready=ready,
        deleting="deletionTimestamp" in metadata,
        told_to_end_at=_told_to_end_at(metadata),
        job_uid=job.get("uid"),
        index=_read_index(labels),
        created_at=parse_timestamp(metadata.get("creationTimestamp")),
        start_time=parse_timestamp(status.get("startTime")),
        running_since=parse_timestamp(running.get("startedAt")),
        termination=None if terminated is None else _read_termination(terminated),
        terminated="terminated" in state or ("waiting" in state and terminated is not None),
        started=any(_has_started(entry) for entry in statuses),
        disrupted="DisruptionTarget" in conditions,
        problem=_problem(metadata["name"], status, statuses),
        sidecar_failure=next(filter(None, (_describe_failing(metadata["name"], entry) for entry in sidecars)), None),
        unready_sidecars=tuple(entry["name"] for entry in sidecars if not entry.get("ready")) if unready else (),
    )


def first_problem(pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    """Return the problem of the first pod, by name, that does not start; None when no pod has a problem."""
    return next((pod.problem for pod in sorted(pods, key=lambda pod: pod.name) if pod.problem is not None), None)


def first_sidecar_failure(pods: Sequence[PodView]) -> tuple[Reason, str] | None:
    """Return the failure of a container beside the main one in the first pod, by name, that has one."""
    failures = [pod.sidecar_failure for pod in sorted(pods, key=lambda pod: pod.name) if pod.sidecar_failure]
    return (Reason.SIDECAR_FAILING, failures[0]) if failures else None


def describe_unready_sidecars(pods: Sequence[PodView]) -> str:
    """Return which other containers keep pods from being ready whose main container is ready; empty when none do."""
    waiting = [pod for pod in sorted(pods, key=lambda pod: pod.name) if pod.unready_sidecars]
    return "; ".join(f"pod {pod.name}: not ready: container {', '.join(pod.unready_sidecars)}" for pod in waiting)


def _read_index(labels: Json) -> int | None:
    # Users may add labels to the pods of servers, which have no index.
    index = labels.get(COMPLETION_INDEX, "")
    return int(index) if index.isdecimal() and index.isascii() else None


def _told_to_end_at(metadata: Json) -> datetime | None:
    # The timestamp is the time at which the pod is killed.
    killed_at = parse_timestamp(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return None if killed_at is None else killed_at - grace


def _has_started(entry: Json) -> bool:
    state = entry.get("state", {})
    return "running" in state or "terminated" in state or "terminated" in entry.get("lastState", {})


def _describe_failing(pod: str, entry: Json) -> str | None:
    """Return how a container ends again and again; None when it does not."""
    terminated: Json | None = entry.get("lastState", {}).get("terminated")
    if entry.get("state", {}).get("waiting", {}).get("reason") != "CrashLoopBackOff" or terminated is None:
        return None
    text = terminated.get("message", "").strip() or terminated.get("reason", "")
    return f"pod {pod}, container {entry['name']} ends again and again with exit code {terminated['exitCode']}: {text}"


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
