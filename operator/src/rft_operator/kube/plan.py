"""A plan: the objects to apply and to delete for a resource, its new status, and when to reconcile it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rft_api.model import Json
from rft_operator.kube.kinds import Kind


@dataclass(frozen=True)
class DesiredObject:
    """An object that has to exist."""

    object: Json
    """The object as it is applied."""
    why: str
    """What the object is for, as a clause that follows its name in the log."""
    create_only: bool = False
    """Whether the object is created when it is missing and never changed: Jobs, immutable objects and Secrets."""


@dataclass(frozen=True)
class Deletion:
    """An object to delete."""

    kind: Kind
    name: str
    uid: str
    """The uid of the object that was observed; another object of the same name is not deleted."""
    why: str
    """Why the object is deleted, as a clause that follows its name in the log."""
    grace_seconds: int | None = None
    """Seconds that a pod has to end; None for what its spec says."""


@dataclass(frozen=True)
class Event:
    """A Kubernetes event about a resource, which `kubectl describe` shows."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The plan for one resource; it depends on nothing but the observed world and the operator's settings."""

    desired: Sequence[DesiredObject] = ()
    """Objects to apply; those that create pods are applied last."""
    deletions: Sequence[Deletion] = ()
    """Objects to delete before anything is applied."""
    status: Json = field(default_factory=dict)
    """The complete status of the resource."""
    events: Sequence[Event] = ()
    """Events to send once the status is written."""
    requeue_seconds: float | None = None
    """Seconds after which the resource is reconciled again without a change; None waits for a change."""
