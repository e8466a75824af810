"""What is published of InferenceEndpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from rft_api.model import Json
from rft_operator.kube.store import Key


@dataclass(frozen=True, slots=True)
class EndpointSample:
    """What is kept of an InferenceEndpoint."""

    model: str
    base: str
    replicas: int | None
    """None for an adapter, which is on another endpoint's server."""


def sample_endpoint(spec: Json, status: Json) -> EndpointSample:
    """The sample of an InferenceEndpoint."""
    return EndpointSample(
        model=(spec.get("model") or spec.get("adapter") or {}).get("uri", ""),
        base=spec.get("baseEndpoint", ""),
        replicas=status.get("replicas"),
    )


def collect_endpoints(samples: Mapping[Key, EndpointSample]) -> Iterator[Metric]:
    """The metrics of InferenceEndpoints."""
    labels = ["namespace", "endpoint"]
    about = GaugeMetricFamily(
        "rft_endpoint_info",
        "An InferenceEndpoint, always 1; an adapter has the endpoint that serves it as `base`.",
        labels=[*labels, "model", "base"],
    )
    replicas = GaugeMetricFamily("rft_endpoint_replicas", "Server pods that are ready.", labels=labels)
    for key, sample in samples.items():
        about.add_metric([key.namespace, key.name, sample.model, sample.base], 1)
        if sample.replicas is not None:
            replicas.add_metric([key.namespace, key.name], sample.replicas)
    yield from (about, replicas)
