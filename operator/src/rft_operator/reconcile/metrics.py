"""The metrics of the operator and of the resources that it reconciles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rft_api.model import Json
from rft_operator.kube.store import ALLOWANCE_BYTES, Key, Store
from rft_operator.reconcile.resource import Resource

_Conditions = tuple[tuple[str, str, str], ...]
"""Type, status and reason of each condition."""


class _ObjectCollector(Collector):
    """The metrics of all objects of one resource, as of their last reconciliation."""

    def __init__(self, resource: Resource[Any]) -> None:
        self._resource = resource
        self._conditions: dict[Key, _Conditions] = {}
        self._samples: dict[Key, Any] = {}

    def update(self, key: Key, spec: Json, status: Json) -> None:
        """Keep the metrics of an object."""
        self._conditions[key] = tuple((c["type"], c["status"], c["reason"]) for c in status.get("conditions", []))
        if self._resource.metrics is not None:
            self._samples[key] = self._resource.metrics.sample(spec, status)

    def remove(self, key: Key) -> None:
        """Remove the metrics of an object."""
        self._conditions.pop(key, None)
        self._samples.pop(key, None)

    def collect(self) -> Iterator[Metric]:
        yield self._collect_conditions()
        if self._resource.metrics is not None:
            yield from self._resource.metrics.collect(dict(self._samples))

    def _collect_conditions(self) -> Metric:
        family = GaugeMetricFamily(
            f"{self._resource.metric_prefix}_condition",
            f"A current condition of an object of kind {self._resource.kind.name}, always 1.",
            labels=["namespace", self._resource.metric_label, "type", "status", "reason"],
        )
        for key, conditions in list(self._conditions.items()):
            for condition in conditions:
                family.add_metric([key.namespace, key.name, *condition], 1)
        return family


class _StoreCollector(Collector):
    """The memory that the objects of each namespace take."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "rft_operator_namespace_bytes",
            f"Memory that the objects of a namespace take, at most {ALLOWANCE_BYTES}.",
            labels=["namespace"],
        )
        for namespace, size in self._store.sizes().items():
            family.add_metric([namespace], size)
        yield family


class Metrics:
    """The metrics that Prometheus scrapes.

    Args:
        resources: the resources of the project.
    """

    def __init__(self, resources: Sequence[Resource[Any]]) -> None:
        self.registry = CollectorRegistry()
        self._collectors = {resource.kind.name: _ObjectCollector(resource) for resource in resources}
        for collector in self._collectors.values():
            self.registry.register(collector)
        self.reconcile_seconds = Histogram(
            "rft_operator_reconcile_seconds",
            "Seconds of a reconciliation of one object.",
            ["kind", "outcome"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.leader = Gauge(
            "rft_operator_leader", "1 on the replica that is the leader, 0 on the others.", registry=self.registry
        )

    def observe(self, store: Store) -> None:
        """Publish the sizes of a store."""
        self.registry.register(_StoreCollector(store))

    def update(self, key: Key, spec: Json, status: Json) -> None:
        """Publish the state of an object."""
        self._collectors[key.kind].update(key, spec, status)

    def remove(self, key: Key) -> None:
        """Remove an object that was deleted."""
        self._collectors[key.kind].remove(key)
