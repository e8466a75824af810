"""Plans for resources that cannot be planned, or whose plan failed: they only write the error to the status."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rft_api.conditions import ConditionType, Reason
from rft_api.foreign.sizes import format_size
from rft_api.model import Json
from rft_api.resource import Condition
from rft_operator.kube.plan import Plan
from rft_operator.kube.store import ALLOWANCE_BYTES
from rft_operator.reconcile.resource import Resource
from rft_operator.status.conditions import Finding, build_conditions
from rft_operator.status.events import plan_events

RETRY_SECONDS = 15.0
FULL_SECONDS = 300.0
"""Seconds until the operator looks whether a namespace still is full, in which there may be very many objects."""
FULL = (
    f"the objects of this namespace take more than {format_size(ALLOWANCE_BYTES)} of the operator's memory, so it does "
    "nothing for them: delete jobs that have ended, or write smaller specs"
)
FAULT = (
    "the operator met a fault of its own, and tries again; what runs goes on. The operator's log has the details, "
    "for whoever runs it"
)


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


def plan_full_namespace(resource: Resource[Any], obj: Json, now: datetime) -> Plan:
    """Plan a resource of a namespace of which objects are left out of the store.

    The status says it, unless the resource is a job that has ended and needs nothing.

    Args:
        resource: the kind of resource.
        obj: the resource.
        now: the current time.
    """
    status = obj.get("status", {})
    if resource.problem_condition(status)[0] is ConditionType.ENDPOINT_READY:
        return Plan(status=status, requeue_seconds=FULL_SECONDS)
    return replace(plan_problem(resource, obj, Reason.NAMESPACE_FULL, FULL, now), requeue_seconds=FULL_SECONDS)


def read_conditions(status: Json) -> list[Condition]:
    """Return the conditions of a status; none when they are not valid."""
    try:
        return [Condition.model_validate(condition) for condition in status.get("conditions", [])]
    except ValidationError:
        return []
