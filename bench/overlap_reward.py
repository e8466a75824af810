"""A reward of typical size for bench/reward_server.py: word overlap with the reference, layout, and repetition."""

import re
from collections import Counter
from typing import Any

ANSWER = re.compile(r"<think>(.+?)</think>\s*<answer>(.+?)</answer>\s*", re.DOTALL)
WORD = re.compile(r"\w+")


def lambda_handler(event: list[dict[str, Any]], context: object) -> list[dict[str, Any]]:
    """Grade each sample of `event`."""
    return [grade(sample) for sample in event]


def grade(sample: dict[str, Any]) -> dict[str, Any]:
    """Grade one sample by the F1 of the words and word pairs of its answer.

    A tenth is subtracted when the layout is missing, and the share of repeated triples of words is subtracted.
    """
    completion = sample["messages"][-1]["content"]
    layout = ANSWER.fullmatch(completion)
    words = WORD.findall((layout[2] if layout else completion).lower())
    reference = WORD.findall(sample["reference_answer"].lower())
    overlap = (f1(words, reference, 1) + f1(words, reference, 2)) / 2
    triples = grams(WORD.findall(completion.lower()), 3)
    repetition = 1 - len(triples) / max(1, triples.total())
    return {
        "id": sample["id"],
        "aggregate_reward_score": max(0.0, overlap - 0.1 * (layout is None) - repetition),
        "metrics_list": [
            {"name": "overlap", "value": overlap, "type": "Reward"},
            {"name": "layout", "value": float(layout is not None), "type": "Reward"},
            {"name": "repetition", "value": repetition, "type": "Reward"},
        ],
    }


def f1(words: list[str], reference: list[str], size: int) -> float:
    """Return the F1 of the sequences of `size` words in two texts."""
    left, right = grams(words, size), grams(reference, size)
    return 2 * (left & right).total() / max(1, left.total() + right.total())


def grams(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    """Count the sequences of `size` words."""
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))
