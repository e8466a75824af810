"""The reward of the quickstart: half for the right value, half for the right unit, 0 for anything but the one JSON."""

import json
from typing import Any

KEYS = {"value", "unit"}
SAME_UNIT = {"dollars": "$", "dollar": "$", "usd": "$", "percent": "%", "percentage": "%"}


def lambda_handler(event: list[dict[str, Any]], context: object) -> list[dict[str, Any]]:
    """Grades each sample {"id", "messages" (the last one is the answer), "reference_answer", "metadata"} of `event`.

    The reference answer {"value": "540", "unit": "$"} may also stand in "metadata"; ValueError if it is in neither.
    """
    return [grade(sample) for sample in event]


def grade(sample: dict[str, Any]) -> dict[str, Any]:
    """The result for one sample: its reward in 0..1 and the parts that it is made of."""
    reference = sample.get("reference_answer") or (sample.get("metadata") or {}).get("reference_answer")
    if not isinstance(reference, dict) or not set(reference) >= KEYS:
        raise ValueError(f"sample {sample.get('id')}: no reference_answer with the keys value and unit")
    reply = parse(sample["messages"][-1].get("content"))
    value = unit = 0.0
    if reply is not None:
        value = float(str(reply["value"]) == str(reference["value"]))
        unit = float(normal_unit(reply["unit"]) == normal_unit(reference["unit"]))
    return {
        "id": sample["id"],
        "aggregate_reward_score": 0.5 * value + 0.5 * unit,
        "metrics_list": [
            {"name": "value", "value": value, "type": "Reward"},
            {"name": "unit", "value": unit, "type": "Reward"},
            {"name": "valid_json", "value": float(reply is not None), "type": "Metric"},
        ],
    }


def parse(text: object) -> dict[str, Any] | None:
    """The answer as an object, or None unless it is nothing but one JSON object with exactly the two keys."""
    try:
        reply = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):  # a deeply nested answer must cost the sample its reward, not the batch
        return None
    return reply if isinstance(reply, dict) and set(reply) == KEYS else None


def normal_unit(unit: object) -> str:
    """Units that mean the same become equal."""
    name = str(unit).strip().lower()
    return SAME_UNIT.get(name, name)
