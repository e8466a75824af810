"""Build the conditions of a status, and look them up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rft_api.conditions import ConditionType, Reason
from rft_api.foreign.text import printable
from rft_api.resource import Condition
from rft_operator.kube.timestamps import format_timestamp

Truth = Literal["True", "False", "Unknown"]

MAXIMUM_MESSAGE = 2000
"""Largest number of characters in the message of a condition."""


@dataclass(frozen=True)
class Finding:
    """The result of judging one aspect of a resource: a condition without generation and timestamp."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str = ""


def build_conditions(
    findings: Iterable[Finding], before: Sequence[Condition], generation: int, now: datetime
) -> list[Condition]:
    """Build the conditions of a status.

    Args:
        findings: the new conditions.
        before: the conditions of the current status. A condition whose status does not change keeps its timestamp.
        generation: the generation of the spec that the findings are about.
        now: the current time.
    """
    times = {(condition.type, condition.status): condition.last_transition_time for condition in before}
    return [
        Condition(
            type=finding.type.value,
            status=finding.status,
            reason=finding.reason.value,
            message=_shortened(finding.message),
            observed_generation=generation,
            last_transition_time=times.get((finding.type.value, finding.status), format_timestamp(now)),
        )
        for finding in findings
    ]


def find_condition(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """Return the condition of a type, or None when there is none."""
    return next((condition for condition in conditions if condition.type == kind.value), None)


def is_repeated(before: Sequence[Condition], now: Sequence[Condition], kind: ConditionType) -> bool:
    """Return whether there was a condition of a type, and it says the same now."""
    first, second = find_condition(before, kind), find_condition(now, kind)
    return first is not None and second is not None and (first.status, first.message) == (second.status, second.message)


def is_true(conditions: Sequence[Condition], kind: ConditionType, generation: int | None) -> bool:
    """Return whether a condition is True for this generation of the spec."""
    condition = find_condition(conditions, kind)
    return condition is not None and condition.status == "True" and condition.observed_generation == generation


def _shortened(message: str) -> str:
    # kubectl prints it as it is, on the terminal of whoever looks; values of specs and what pods say are a part of it.
    message = printable(message[: MAXIMUM_MESSAGE + 1])
    return message if len(message) <= MAXIMUM_MESSAGE else message[: MAXIMUM_MESSAGE - 1] + "…"
