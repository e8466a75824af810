"""The events that tell of a status: one for each condition that has changed."""

from __future__ import annotations

from collections.abc import Sequence

from rft_api.resource import Condition
from rft_operator.kube.plan import Event
from rft_operator.status.reasons import ConditionType, Reason

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
