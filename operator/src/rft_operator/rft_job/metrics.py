"""The metrics of RFTJobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from rft_api.model import Json
from rft_operator.kube.store import Key


@dataclass(frozen=True, slots=True)
class JobSample:
    """The published values of an RFTJob."""

    model: str
    """Address of the base model."""
    algorithm: str
    """The algorithm."""
    queue: str
    """Name of the queue of Kueue; empty without one."""
    gpu_seconds: int
    """Number of GPU seconds that the job has used."""


def sample_job(spec: Json, status: Json) -> JobSample:
    """Extract the values from the spec and the status of an RFTJob."""
    return JobSample(
        model=sys.intern(spec["model"]["uri"]),
        algorithm=sys.intern(spec["algorithm"]),
        queue=sys.intern(spec.get("queueName", "")),
        gpu_seconds=status.get("usage", {}).get("gpuSeconds", 0),
    )


def collect_jobs(samples: Mapping[Key, JobSample]) -> Iterator[Metric]:
    """Build the metrics of all RFTJobs."""
    labels = ["namespace", "job"]
    about = GaugeMetricFamily("rft_job_info", "An RFTJob, always 1.", labels=[*labels, "model", "algorithm", "queue"])
    gpu = CounterMetricFamily(
        "rft_job_gpu_seconds", "Number of GPUs times the seconds for which the pods of a job held them.", labels=labels
    )
    for key, sample in samples.items():
        about.add_metric([key.namespace, key.name, sample.model, sample.algorithm, sample.queue], 1)
        gpu.add_metric([key.namespace, key.name], sample.gpu_seconds)
    yield from (about, gpu)
