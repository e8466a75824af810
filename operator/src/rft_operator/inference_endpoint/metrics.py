"""The metrics of InferenceEndpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from rft_api.model import Json
from rft_operator.kube.store import Key


@dataclass(frozen=True, slots=True)
class EndpointSample:
    """The published values of an InferenceEndpoint."""

    model: str
    """Address of the model or the adapter."""
    base: str
    """Name of the base endpoint; empty for an endpoint with a server of its own."""
    replicas: int | None
    """Number of ready server pods; None for an adapter, which the server of another endpoint serves."""
    desired: int | None
    """Number of server pods that an endpoint with autoscale is to have; None without autoscale."""


def sample_endpoint(spec: Json, status: Json) -> EndpointSample:
    """Extract the values from the spec and the status of an InferenceEndpoint."""
    return EndpointSample(
        model=(spec.get("model") or spec.get("adapter") or {}).get("uri", ""),
        base=spec.get("baseEndpoint", ""),
        replicas=status.get("replicas"),
        desired=status.get("autoscale", {}).get("replicas"),
    )


def collect_endpoints(samples: Mapping[Key, EndpointSample]) -> Iterator[Metric]:
    """Build the metrics of all InferenceEndpoints."""
    labels = ["namespace", "endpoint"]
    about = GaugeMetricFamily(
        "rft_endpoint_info",
        "An InferenceEndpoint, always 1. The label `base` of an adapter names the endpoint that serves it.",
        labels=[*labels, "model", "base"],
    )
    replicas = GaugeMetricFamily("rft_endpoint_replicas", "Number of server pods that are ready.", labels=labels)
    desired = GaugeMetricFamily(
        "rft_endpoint_desired_replicas",
        "Number of server pods that an InferenceEndpoint with autoscale is to have.",
        labels=labels,
    )
    for key, sample in samples.items():
        about.add_metric([key.namespace, key.name, sample.model, sample.base], 1)
        if sample.replicas is not None:
            replicas.add_metric([key.namespace, key.name], sample.replicas)
        if sample.desired is not None:
            desired.add_metric([key.namespace, key.name], sample.desired)
    yield from (about, replicas, desired)
