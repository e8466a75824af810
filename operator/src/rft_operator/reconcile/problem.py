"""Plans for resources that cannot be planned, or whose plan failed: they only write the error to the status."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rft_api.model import Json
from rft_api.resource import Condition
from rft_operator.kube.plan import Plan
from rft_operator.reconcile.resource import Resource
from rft_operator.status.conditions import Finding, build_conditions
from rft_operator.status.events import plan_events
from rft_operator.status.reasons import Reason

RETRY_SECONDS = 15.0


def plan_problem(resource: Resource[Any], obj: Json, reason: Reason, message: str, now: datetime) -> Plan:
    """Plan a status with an error in one condition; everything else in the status stays.

    Args:
        resource: the kind of resource.
        obj: the resource.
        reason: the reason of the condition.
        message: its message.
        now: the current time.
    """
    status = obj.get("status", {})
    before = read_conditions(status)
    finding = Finding(*resource.problem_condition(status), reason, message)
    generation = obj["metadata"].get("generation", 0)
    built = build_conditions([finding], before, generation, now)
    conditions = [*built, *(condition for condition in before if condition.type != finding.type)]
    return Plan(
        status={**status, "conditions": [condition.to_json_object() for condition in conditions]},
        events=plan_events(before, conditions),
        requeue_seconds=RETRY_SECONDS,
    )


def read_conditions(status: Json) -> list[Condition]:
    """Return the conditions of a status; none when they are not valid."""
    try:
        return [Condition.model_validate(condition) for condition in status.get("conditions", [])]
    except ValidationError:
        return []
