"""What a plan is: the objects that should be, those that should not, the status, and when to look again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rft_api.resource import Condition
from rft_operator.status.reasons import ConditionType, Reason

Json = dict[str, Any]


@dataclass(frozen=True)
class Desired:
    """An object that should be."""

    object: Json
    """The object, as it is applied."""
    once: bool = False
    """Whether it is only created, and left alone when it exists: Jobs and what is immutable or secret."""


@dataclass(frozen=True)
class Deletion:
    """An object that should not be."""

    api_version: str
    kind: str
    name: str
    uid: str
    """The object that was seen: one made anew under the same name is not deleted."""


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


_WARNINGS = {
    Reason.RETRYING,
    Reason.UNSCHEDULABLE,
    Reason.IMAGE_PULL_FAILED,
    Reason.CONTAINER_BLOCKED,
    Reason.CONFIGURATION_INVALID,
    Reason.SPEC_CHANGE_REJECTED,
    Reason.NAME_TAKEN,
    Reason.SOURCE_MISSING,
    Reason.TESTS_FAILING,
    Reason.SERVER_FAILING,
    Reason.ADAPTER_REJECTED,
    Reason.NOT_ANSWERING,
    Reason.MODEL_INVALID,
    Reason.SHADOW_FALLS,
}
_EVENTFUL = {ConditionType.SUCCEEDED, ConditionType.SPEC_ACCEPTED, ConditionType.READY}


def plan_events(before: Sequence[Condition], after: Sequence[Condition]) -> list[Event]:
    """An event for each main condition whose status or reason has changed, and when reward hacking is suspected."""
    old = {condition.type: (condition.status, condition.reason) for condition in before}
    events = [
        Event("Warning" if _is_bad(condition) else "Normal", condition.reason, condition.message or condition.reason)
        for condition in after
        if (condition.type in _EVENTFUL or condition.reason == Reason.SHADOW_FALLS)
        and old.get(condition.type) != (condition.status, condition.reason)
        and condition.reason != Reason.ACCEPTED
    ]
    # Two conditions may have the same to say.
    return list(dict.fromkeys(events))


def _is_bad(condition: Condition) -> bool:
    ended_badly = condition.type == ConditionType.SUCCEEDED and condition.status == "False"
    return ended_badly or condition.reason in _WARNINGS
