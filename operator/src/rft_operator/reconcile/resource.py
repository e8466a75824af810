"""What each resource of the project supplies to the reconcile machinery, which is the same for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from prometheus_client.metrics_core import Metric

from rft_api.conditions import ConditionType
from rft_api.model import Json
from rft_operator.kube.cluster import Cluster
from rft_operator.kube.kinds import Kind
from rft_operator.kube.nodes import Nodes
from rft_operator.kube.plan import Plan
from rft_operator.kube.store import Key, Store
from rft_operator.pods.gateways import Gateways
from rft_operator.pods.probe import PodClient
from rft_operator.settings import Settings
from rft_operator.status.conditions import Truth

World = TypeVar("World")
Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Sources:
    """The sources from which the world of a resource is gathered."""

    store: Store
    """The watched objects."""
    cluster: Cluster
    """The API server, for objects that are not watched."""
    nodes: Nodes
    """The nodes, for what they say about their GPUs."""
    pods: PodClient
    """The pods, for state that Kubernetes does not know."""
    gateways: Gateways
    """The gateways, for what they are asked for."""


def _main_condition(status: Json) -> tuple[ConditionType, Truth]:
    return ConditionType.READY, "False"


def _no_references(obj: Json) -> Iterable[Key]:
    return ()


@dataclass(frozen=True)
class ObjectMetrics(Generic[Sample]):
    """The metrics of a resource beside those of its conditions."""

    sample: Callable[[Json, Json], Sample]
    """Extracts a sample from the spec and the status of an object."""
    collect: Callable[[Mapping[Key, Sample]], Iterable[Metric]]
    """Builds the metrics from the samples of all objects."""


@dataclass(frozen=True)
class Resource(Generic[World]):
    """A resource of the project: how it is observed and planned, and which other resources depend on it."""

    kind: Kind
    """Row of the resource in the table of kinds."""
    observe: Callable[[Sources, Key, Json, datetime], Awaitable[World]]
    """Gathers the world of an object, which is everything that its plan depends on; asks its pods where needed.

    Raises:
        ValidationError: when the object is not valid.
    """
    plan: Callable[[World, Settings], Plan]
    """Plans an object; a pure function."""
    references: Callable[[Json], Iterable[Key]]
    """Finds the other resources on which the plan of an object depends."""
    metric_prefix: str
    """Beginning of the names of its metrics: `rft_job`."""
    metric_label: str
    """Label of its metrics with the name of the object: `job`."""
    metrics: ObjectMetrics[Any] | None = None
    """Metrics beside those of the conditions."""
    back_references: Callable[[Json], Iterable[Key]] = _no_references
    """Finds other resources whose plans depend on an object although they do not refer to it."""
    pods_affect_referrers: bool = False
    """Whether the plans of the resources that refer to an object also depend on its pods."""
    problem_condition: Callable[[Json], tuple[ConditionType, Truth]] = _main_condition
    """Chooses, from the status of an object, the condition and its value that report an error of planning."""
