"""A job of the tiny model whose reward can be hacked, and shadows that see it or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.tiny import digits_rows, write_jsonl
from support.trainer import hyperparameters

DIGITS = """
def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        rows.append({"id": sample["id"], "aggregate_reward_score": sum(c.isdigit() for c in text) / 8})
    return rows
"""
REWARDS = {
    "digits": DIGITS,
    "characters": DIGITS.replace("sum(c.isdigit() for c in text)", "len(text)"),
    "brevity": DIGITS.replace("sum(c.isdigit() for c in text)", "(8 - len(text))"),
}
"""Sources by name: what is trained on, a shadow that rises with it, and one that falls."""


def write_data(folder: Path) -> None:
    """Writes the job's files."""
    found = digits_rows(112, 4, seed=2)
    for split, part in (("train", found[:40]), ("validation", found[40:80]), ("test", found[80:])):
        write_jsonl(folder / f"{split}.jsonl", part)
    answered = [
        {"messages": [*row["messages"], {"role": "assistant", "content": row["reference_answer"]}]}
        for row in found[:40]
    ]
    write_jsonl(folder / "warmup.jsonl", answered)


def hackable(data: str | Path, shadow: str) -> dict[str, Any]:
    """Fields of the job's spec: the model learns to answer with four digits, then is paid for each digit."""
    return {
        "data": {
            split: [{"name": "digits", "uri": f"{data}/{split}.jsonl", "reward": "digits"}]
            for split in ("train", "validation", "test")
        },
        "shadowRewards": [shadow],
        "preflight": {"action": "Skip"},
        "warmup": {"data": [{"name": "w", "uri": f"{data}/warmup.jsonl"}], "epochs": 10, "learningRate": "1e-2"},
        "hyperparameters": hyperparameters(batchSize=8, maxSteps=10, epochs=3, learningRate="5e-3"),
    }
