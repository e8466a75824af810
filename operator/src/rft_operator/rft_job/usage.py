"""Counts the GPU time that trainer pods hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rft_api.job_status import JobUsage
from rft_operator.kube.timestamps import format_moment, parse_moment
from rft_operator.pods.pod_view import PodView

LEAST_SECONDS = 10
"""Shortest time that is counted while pods run."""


def count_usage(before: JobUsage | None, pods: Sequence[PodView], gpus_per_pod: int, now: datetime) -> JobUsage | None:
    """Usage up to now: what was counted, and what each pod has held since then. None for jobs without GPUs.

    Counting and its time stand in the same status, so that a pass that is repeated counts nothing twice.
    """
    if not gpus_per_pod:
        return None
    now = now.replace(microsecond=0)
    running = any(pod.active and pod.start_time is not None for pod in pods)
    since = parse_moment(before.measured_at) if before is not None else None
    seconds = sum(_held_seconds(pod, since, now) for pod in pods) * gpus_per_pod
    # Two looks shortly after one another say the same; the end of a pod is counted at once.
    if before is not None and (not seconds or (running and seconds < LEAST_SECONDS * gpus_per_pod)):
        return before
    total = (before.gpu_seconds if before is not None else 0) + seconds
    return JobUsage(gpu_hours=f"{total / 3600:.3f}", gpu_seconds=total, measured_at=format_moment(now))


def _held_seconds(pod: PodView, since: datetime | None, now: datetime) -> int:
    if pod.start_time is None:
        return 0
    end = now if pod.active else pod.end_time or pod.start_time
    begin = pod.start_time if since is None else max(since, pod.start_time)
    return max(0, int((min(end, now) - begin).total_seconds()))
