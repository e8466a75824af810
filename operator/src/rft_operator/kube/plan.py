"""What a plan is: the objects that should be, those that should not, the status, and when to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rft_api.model import Json
from rft_operator.kube.kinds import Kind


@dataclass(frozen=True)
class Desired:
    """An object that should be."""

    object: Json
    """The object, as it is applied."""
    why: str
    """What it is for, as a sentence without its end: it follows the object's name in the log."""
    once: bool = False
    """Whether it is only created, and left alone when it exists: Jobs and what is immutable or secret."""


@dataclass(frozen=True)
class Deletion:
    """An object that should not be."""

    kind: Kind
    name: str
    uid: str
    """The object that was seen: one made anew under the same name is not deleted."""
    why: str
    """Why it is deleted, as a sentence without its end."""


@dataclass(frozen=True)
class Event:
    """A moment that matters, for `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The outcome of planning one object; nothing in it depends on anything but what was observed."""

    desired: Sequence[Desired] = ()
    """Objects to apply; those that run pods come last."""
    deletions: Sequence[Deletion] = ()
    """Objects to delete, before anything is applied."""
    status: Json = field(default_factory=dict)
    """The object's status, whole."""
    events: Sequence[Event] = ()
    """Events to send once the status is written."""
    requeue_seconds: float | None = None
    """When to plan again though nothing was announced; never when absent."""
