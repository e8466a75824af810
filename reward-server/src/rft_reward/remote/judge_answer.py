"""Reads the rating and its reason from the answer of a judge, whatever the model has written around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rft_reward.remote.judge_reply import objects_after_reasoning, reason_of

LOWEST, HIGHEST = 1, 5

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
    ratings = {}
    for verdict in objects_after_reasoning(text):
        rating = _whole_number(verdict.get("score"))
        if rating is not None:
            ratings[rating] = Rating(rating, reason_of(verdict))
    return next(iter(ratings.values())) if len(ratings) == 1 else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip() in {str(rating) for rating in range(LOWEST, HIGHEST + 1)}:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(LOWEST, HIGHEST + 1) else None
