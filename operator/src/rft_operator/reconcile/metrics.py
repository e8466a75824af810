"""The operator's own metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rft_operator.kube.store import Key

Json = dict[str, Any]


_Conditions = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class _JobSample:
    model: str
    algorithm: str
    queue: str
    conditions: _Conditions
    gpu_seconds: int


@dataclass(frozen=True, slots=True)
class _RewardFunctionSample:
    conditions: _Conditions


@dataclass(frozen=True, slots=True)
class _EndpointSample:
    model: str
    base: str
    conditions: _Conditions
    replicas: int | None
    """None for an adapter, which is on another endpoint's server."""


class _ObjectCollector(Collector):
    """What the last pass over each object has found."""

    def __init__(self) -> None:
        self.jobs: dict[Key, _JobSample] = {}
        self.reward_functions: dict[Key, _RewardFunctionSample] = {}
        self.endpoints: dict[Key, _EndpointSample] = {}

    def of(self, kind: str) -> dict[Key, Any]:
        """The samples of a kind."""
        match kind:
            case "RFTJob":
                return self.jobs
            case "RewardFunction":
                return self.reward_functions
            case _:
                return self.endpoints

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_jobs()
        yield _conditions("rft_reward_function", "RewardFunction", "reward_function", self.reward_functions)
        yield from self._collect_endpoints()

    def _collect_jobs(self) -> Iterator[Metric]:
        labels = ["namespace", "job"]
        about = GaugeMetricFamily(
            "rft_job_info", "An RFTJob, always 1.", labels=[*labels, "model", "algorithm", "queue"]
        )
        gpu = CounterMetricFamily(
            "rft_job_gpu_seconds", "GPUs times the seconds that a job's pods held them.", labels=labels
        )
        for key, sample in list(self.jobs.items()):
            about.add_metric([key.namespace, key.name, sample.model, sample.algorithm, sample.queue], 1)
            gpu.add_metric([key.namespace, key.name], sample.gpu_seconds)
        yield from (about, _conditions("rft_job", "RFTJob", "job", self.jobs), gpu)

    def _collect_endpoints(self) -> Iterator[Metric]:
        labels = ["namespace", "endpoint"]
        about = GaugeMetricFamily(
            "rft_endpoint_info",
            "An InferenceEndpoint, always 1; an adapter has the endpoint that serves it as `base`.",
            labels=[*labels, "model", "base"],
        )
        replicas = GaugeMetricFamily("rft_endpoint_replicas", "Server pods that are ready.", labels=labels)
        for key, sample in list(self.endpoints.items()):
            about.add_metric([key.namespace, key.name, sample.model, sample.base], 1)
            if sample.replicas is not None:
                replicas.add_metric([key.namespace, key.name], sample.replicas)
        yield from (about, _conditions("rft_endpoint", "InferenceEndpoint", "endpoint", self.endpoints), replicas)


def _conditions(prefix: str, kind: str, label: str, samples: Mapping[Key, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        f"{prefix}_condition",
        f"A condition of an object of kind {kind} as it is now, always 1.",
        labels=["namespace", label, "type", "status", "reason"],
    )
    for key, sample in list(samples.items()):
        for type_, status, reason in sample.conditions:
            family.add_metric([key.namespace, key.name, type_, status, reason], 1)
    return family


class Metrics:
    """What Prometheus reads of the operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._objects = _ObjectCollector()
        self.registry.register(self._objects)
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

    def show(self, key: Key, spec: Json, status: Json) -> None:
        """Publishes an object's state."""
        conditions = tuple((c["type"], c["status"], c["reason"]) for c in status.get("conditions", []))
        match key.kind:
            case "RFTJob":
                self._objects.jobs[key] = _JobSample(
                    model=sys.intern(spec["model"]["uri"]),
                    algorithm=sys.intern(spec["algorithm"]),
                    queue=sys.intern(spec.get("queueName", "")),
                    conditions=conditions,
                    gpu_seconds=status.get("usage", {}).get("gpuSeconds", 0),
                )
            case "RewardFunction":
                self._objects.reward_functions[key] = _RewardFunctionSample(conditions)
            case _:
                self._objects.endpoints[key] = _EndpointSample(
                    model=(spec.get("model") or spec.get("adapter") or {}).get("uri", ""),
                    base=spec.get("baseEndpoint", ""),
                    conditions=conditions,
                    replicas=status.get("replicas"),
                )

    def drop(self, key: Key) -> None:
        """Forgets an object that is gone."""
        self._objects.of(key.kind).pop(key, None)
