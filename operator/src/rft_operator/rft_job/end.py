"""Whether an RFTJob has ended, decided in one place for plans, references and errors."""

from __future__ import annotations

from rft_api.model import Json
from rft_operator.status.reasons import ConditionType


def is_end(type_: str, status: str) -> bool:
    """Return whether a condition says that its RFTJob has ended: Succeeded is True or False, which is final."""
    return type_ == ConditionType.SUCCEEDED and status != "Unknown"


def has_ended(status: Json) -> bool:
    """Return whether the RFTJob with this status has ended."""
    return any(is_end(condition["type"], condition["status"]) for condition in status.get("conditions", []))
