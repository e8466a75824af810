"""Reads the rating and its reason from the answer of a judge, whatever the model has written around them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rft_reward.text import writable

LOWEST, HIGHEST = 1, 5
_LONGEST_REASON = 4000
_LONGEST_ANSWER = 100_000
_MOST_OPENINGS = 200

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "score": {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))},
    },
    "required": ["reason", "score"],
    "additionalProperties": False,
}

ASK_AGAIN = (
    'That is not the answer that was asked for. Write only one JSON object, {"reason": "...", "score": RATING}, '
    "with a whole number from 1 to 5 as the rating, and nothing before or after it."
)


@dataclass(frozen=True)
class Rating:
    """A rating by a judge."""

    rating: float
    """The rating from 1 to 5, or the median of several votes."""
    reason: str

    @property
    def score(self) -> float:
        """The rating as a reward: rating 1 is 0, and rating 5 is 1."""
        return (self.rating - LOWEST) / (HIGHEST - LOWEST)


def read_rating(text: str) -> Rating | None:
    """Read the rating in a judge's answer, which may be in a code fence, after reasoning, or in other text.

    The result is None if there is no rating, or if there are different ratings. Choosing one of them would be a guess,
    and one of them may be quoted from the completion.
    """
    # The reasoning may mention several ratings. Only what comes after it counts.
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:  # the answer was cut off in the reasoning
        return None
    ratings = {rating.rating: rating for rating in _ratings(answer[-_LONGEST_ANSWER:])}
    return next(iter(ratings.values())) if len(ratings) == 1 else None


def _ratings(text: str) -> list[Rating]:
    decoder, position, ratings = json.JSONDecoder(strict=False), 0, []
    for _ in range(_MOST_OPENINGS):
        position = text.find("{", position)
        if position < 0:
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        rating = _whole_number(value.get("score"))
        if rating is not None:
            reason = value.get("reason")
            ratings.append(Rating(rating, writable(reason)[:_LONGEST_REASON] if isinstance(reason, str) else ""))
    return ratings


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip() in {str(rating) for rating in range(LOWEST, HIGHEST + 1)}:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(LOWEST, HIGHEST + 1) else None
