"""The operator's own metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rft_operator.store import Key

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _JobSample:
    model: str
    algorithm: str
    queue: str
    conditions: tuple[tuple[str, str, str], ...]
    gpu_seconds: int


class _JobCollector(Collector):
    def __init__(self) -> None:
        self.samples: dict[Key, _JobSample] = {}

    def collect(self) -> Iterator[Metric]:
        about = GaugeMetricFamily(
            "rft_job_info", "An RFTJob, always 1.", labels=["namespace", "job", "model", "algorithm", "queue"]
        )
        condition = GaugeMetricFamily(
            "rft_job_condition",
            "A condition of an RFTJob as it is now, always 1.",
            labels=["namespace", "job", "type", "status", "reason"],
        )
        gpu = CounterMetricFamily(
            "rft_job_gpu_seconds", "GPUs times the seconds that a job's pods held them.", labels=["namespace", "job"]
        )
        for key, sample in list(self.samples.items()):
            about.add_metric([key.namespace, key.name, sample.model, sample.algorithm, sample.queue], 1)
            for kind, status, reason in sample.conditions:
                condition.add_metric([key.namespace, key.name, kind, status, reason], 1)
            gpu.add_metric([key.namespace, key.name], sample.gpu_seconds)
        yield from (about, condition, gpu)


class Metrics:
    """What Prometheus reads of the operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = _JobCollector()
        self.registry.register(self._jobs)
        self.reconcile_seconds = Histogram(
            "rft_operator_reconcile_seconds",
            "Seconds of a pass over an object.",
            ["kind", "outcome"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.leader = Gauge(
            "rft_operator_leader", "1 on the replica that acts, 0 on one that stands by.", registry=self.registry
        )

    def show_job(self, key: Key, spec: Json, status: Json) -> None:
        """Publishes a job's state."""
        self._jobs.samples[key] = _JobSample(
            model=sys.intern(spec["model"]["uri"]),
            algorithm=sys.intern(spec["algorithm"]),
            queue=sys.intern(spec.get("queueName", "")),
            conditions=tuple((c["type"], c["status"], c["reason"]) for c in status.get("conditions", [])),
            gpu_seconds=status.get("usage", {}).get("gpuSeconds", 0),
        )

    def drop_job(self, key: Key) -> None:
        """Forgets a job that is gone."""
        self._jobs.samples.pop(key, None)
