"""Count the time for which the pods of a trainer hold GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from rft_api.job_status import JobResult, JobUsage
from rft_api.rft_job import RFTJobSpec
from rft_operator.kube.timestamps import format_timestamp, parse_timestamp
from rft_operator.pods.pod_view import PodView

MINIMUM_INTERVAL_SECONDS = 10
"""Shortest interval that is counted while pods are running."""
_CENT = Decimal("0.01")


def count_usage(before: JobUsage | None, pods: Sequence[PodView], gpus_per_pod: int, now: datetime) -> JobUsage | None:
    """Return the usage until now; None for jobs without GPUs.

    The usage and its timestamp are written in one status, so that a repeated reconciliation counts nothing twice.

    Args:
        before: the usage in the current status.
        pods: the pods of all attempts.
        gpus_per_pod: the number of GPUs that each pod holds.
        now: the current time.
    """
    if not gpus_per_pod:
        return None
    now = now.replace(microsecond=0)
    running = any(pod.active and pod.start_time is not None for pod in pods)
    since = parse_timestamp(before.measured_at) if before is not None else None
    seconds = sum(_held_seconds(pod, since, now) for pod in pods) * gpus_per_pod
    # Short intervals are not counted, to avoid writes of the status, unless a pod has ended.
    if before is not None and (not seconds or (running and seconds < MINIMUM_INTERVAL_SECONDS * gpus_per_pod)):
        return before
    total = (before.gpu_seconds if before is not None else 0) + seconds
    return JobUsage(gpu_hours=f"{total / 3600:.3f}", gpu_seconds=total, measured_at=format_timestamp(now))


def price_usage(usage: JobUsage, result: JobResult | None, gpu_hour_price: Decimal | None) -> JobUsage:
    """Return the usage with what it costs. A cost that is there already stays, so that it keeps the price of its time.

    Args:
        usage: the usage, without a cost where GPU time was counted anew.
        result: the result of the job, whose gain is what was bought; None before its end. A warm-up alone may have no
            gain.
        gpu_hour_price: the price of a GPU for an hour; None when it is not stated.
    """
    cost = Decimal(usage.cost) if usage.cost is not None else None
    if cost is None and gpu_hour_price is not None:
        cost = (gpu_hour_price * usage.gpu_seconds / 3600).quantize(_CENT)
    points = Decimal(result.gain) * 100 if result is not None and result.gain is not None else Decimal(0)
    if cost is None or points <= 0:
        return usage.model_copy(update={"cost": None if cost is None else str(cost)})
    return usage.model_copy(update={"cost": str(cost), "cost_per_point": f"{cost / points:.2f}"})


def _held_seconds(pod: PodView, since: datetime | None, now: datetime) -> int:
    if pod.start_time is None:
        return 0
    end = now if pod.active else pod.end_time or pod.start_time
    begin = pod.start_time if since is None else max(since, pod.start_time)
    return max(0, int((min(end, now) - begin).total_seconds()))


def seconds_of_gpus(spec: RFTJobSpec, usage: JobUsage | None) -> float | None:
    """Return after how many seconds of running the job has used its GPU hours; None when they are not limited."""
    hours, gpus = spec.limits.gpu_hours, spec.compute.nodes * spec.compute.pod_gpus
    if hours is None or not gpus:
        return None
    return max(0.0, hours * 3600 - (usage.gpu_seconds if usage is not None else 0)) / gpus
