"""A reward Lambda as written for Amazon Bedrock: grades a support reply's JSON against what a person decided."""

import json
import re

WEIGHTS = {"category": 0.6, "priority": 0.4}


def lambda_handler(event, context):
    """Grades a batch; the rows come back sorted by reward, which the contract allows."""
    rows = [grade(sample) for sample in event]
    return sorted(rows, key=lambda row: row["aggregate_reward_score"], reverse=True)


def grade(sample):
    """The row of one sample."""
    expected = sample["metadata"]["reference_answer"]
    answer = read_answer(sample["messages"][-1]["content"])
    parts = {name: matches(answer.get(name), expected[name]) for name in WEIGHTS}
    return {
        "id": sample["id"],
        "aggregate_reward_score": sum(WEIGHTS[name] * value for name, value in parts.items()),
        "metrics_list": [{"name": name, "value": value, "type": "Reward"} for name, value in parts.items()],
    }


def read_answer(text):
    """The last JSON object in the text, or an empty one."""
    for candidate in reversed(re.findall(r"\{[^{}]*\}", text)):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return {}


def matches(given, wanted):
    """1.0 if two values are the same word, else 0.0."""
    return float(str(given).strip().lower() == str(wanted).strip().lower())
