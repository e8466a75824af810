"""What hostile reward code returns for a batch: kin of one attack, which is an answer that is too large."""

from __future__ import annotations

SOURCE = """
def lambda_handler(event, context):
    return eval(event[0]["messages"][-1]["content"])
"""
"""A handler that returns what the first completion of a batch says."""
GREEDY = {
    "empty objects": "[{}] * 15_000_000",
    "nulls": "[None] * 15_000_000",
    "lists in lists": "[[[]]] * 10_000_000",
    "one long row": "[{'id': 'one', 'aggregate_reward_score': 1.0, 'explanation': 'x' * 60_000_000}]",
    "many components": "[{'id': 'one', 'aggregate_reward_score': 1.0, 'metrics_list': [{}] * 10_000_000}]",
    "many fields": "[{str(n): n for n in range(2_000_000)}]",
    "the same row again": "[{'id': 'one', 'aggregate_reward_score': 1.0}] * 1_000_000",
    "a body as text": "{'body': '[' + '{},' * 10_000_000 + '{}]'}",
}
"""Completions for it."""
