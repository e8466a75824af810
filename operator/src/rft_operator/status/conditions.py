"""Builds the conditions of a status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rft_api.resource import Condition
from rft_operator.kube.timestamps import format_moment
from rft_operator.status.reasons import ConditionType, Reason

Truth = Literal["True", "False", "Unknown"]

MAXIMUM_MESSAGE = 2000
"""Characters of a message that are kept: a status is no log."""


@dataclass(frozen=True)
class Finding:
    """A condition before it has a time: what was found about one aspect."""

    type: ConditionType
    status: Truth
    reason: Reason
    message: str = ""


def build_conditions(
    findings: Iterable[Finding], before: Sequence[Condition], generation: int, now: datetime
) -> list[Condition]:
    """Conditions of a status; one keeps its transition time for as long as its status stays the same."""
    times = {(condition.type, condition.status): condition.last_transition_time for condition in before}
    return [
        Condition(
            type=finding.type.value,
            status=finding.status,
            reason=finding.reason.value,
            message=_shortened(finding.message),
            observed_generation=generation,
            last_transition_time=times.get((finding.type.value, finding.status), format_moment(now)),
        )
        for finding in findings
    ]


def find_condition(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """The condition of a type."""
    return next((condition for condition in conditions if condition.type == kind.value), None)


def is_true(conditions: Sequence[Condition], kind: ConditionType, generation: int | None) -> bool:
    """Whether a condition holds for this generation of the spec."""
    condition = find_condition(conditions, kind)
    return condition is not None and condition.status == "True" and condition.observed_generation == generation


def _shortened(message: str) -> str:
    return message if len(message) <= MAXIMUM_MESSAGE else message[: MAXIMUM_MESSAGE - 1] + "…"
