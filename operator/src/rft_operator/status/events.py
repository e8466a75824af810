"""The events about a status: one for each condition that has changed."""

from __future__ import annotations

from collections.abc import Sequence

from rft_api.conditions import ConditionType, Reason
from rft_api.resource import Condition
from rft_operator.kube.plan import Event
from rft_operator.status.reasons import EXPLANATIONS

_CONDITIONS = {ConditionType.SUCCEEDED, ConditionType.SPEC_ACCEPTED, ConditionType.READY}
"""Conditions whose changes are events."""


def plan_events(before: Sequence[Condition], after: Sequence[Condition]) -> list[Event]:
    """Plan an event for each main condition whose status or reason has changed, and for suspected reward hacking."""
    previous = {condition.type: (condition.status, condition.reason) for condition in before}
    events = [
        Event(
            "Warning" if _is_warning(condition) else "Normal", condition.reason, condition.message or condition.reason
        )
        for condition in after
        if (condition.type in _CONDITIONS or condition.reason == Reason.SHADOW_FALLS)
        and previous.get(condition.type) != (condition.status, condition.reason)
        and condition.reason != Reason.ACCEPTED
    ]
    # Two conditions may have the same reason and message.
    return list(dict.fromkeys(events))


def _is_warning(condition: Condition) -> bool:
    failed = condition.type == ConditionType.SUCCEEDED and condition.status == "False"
    return failed or EXPLANATIONS[Reason(condition.reason)].warning
