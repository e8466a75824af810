"""What a resource of the project contributes to the machinery that is the same for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from prometheus_client.metrics_core import Metric

from rft_api.model import Json
from rft_operator.kube.cluster import Cluster
from rft_operator.kube.kinds import Kind
from rft_operator.kube.plan import Plan
from rft_operator.kube.store import Key, Store
from rft_operator.pods.probe import PodClient
from rft_operator.settings import Settings
from rft_operator.status.conditions import Truth
from rft_operator.status.reasons import ConditionType

World = TypeVar("World")
Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Sources:
    """Where a resource learns what its plans look at."""

    store: Store
    """What the watches have brought."""
    cluster: Cluster
    """The API server, for what is not watched."""
    pods: PodClient
    """Pods, for what Kubernetes does not know."""


def _main_condition(status: Json) -> tuple[ConditionType, Truth]:
    return ConditionType.READY, "False"


def _no_references(obj: Json) -> Iterable[Key]:
    return ()


@dataclass(frozen=True)
class ObjectMetrics(Generic[Sample]):
    """What is published of each object of a resource, beside its conditions."""

    sample: Callable[[Json, Json], Sample]
    """From spec and status of an object to what is kept of it."""
    collect: Callable[[Mapping[Key, Sample]], Iterable[Metric]]
    """From the samples of all objects to metrics."""


@dataclass(frozen=True)
class Resource(Generic[World]):
    """A resource of the project: what is observed of an object, how it is planned, and whom its changes concern."""

    kind: Kind
    """Its row in the table of kinds."""
    observe: Callable[[Sources, Key, Json, datetime], Awaitable[World]]
    """Gathers the world of an object: everything that its plan looks at. Pods are asked here.

    Raises:
        ValidationError: when the object is none of the resource.
    """
    plan: Callable[[World, Settings], Plan]
    """The plan for an object: pure."""
    references: Callable[[Json], Iterable[Key]]
    """Other objects of the project that the plan of an object looks at."""
    metric_prefix: str
    """What the names of its metrics begin with: `rft_job`."""
    metric_label: str
    """Label of its metrics that holds an object's name: `job`."""
    metrics: ObjectMetrics[Any] | None = None
    """What is published beside the conditions; nothing when absent."""
    looked_at_by: Callable[[Json], Iterable[Key]] = _no_references
    """Other objects whose plans look at this one although they do not refer to it."""
    pods_concern_referrers: bool = False
    """Whether the plans of those that refer to an object look at its pods, too."""
    problem_condition: Callable[[Json], tuple[ConditionType, Truth]] = _main_condition
    """From an object's status to the condition, and its value, that says why the object cannot be planned."""
