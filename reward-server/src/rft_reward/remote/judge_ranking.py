"""Reads the ranking and its reason from the answer of a judge that compares answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rft_reward.remote.judge_reply import objects_after_reasoning, reason_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "ranking": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    },
    "required": ["reason", "ranking"],
    "additionalProperties": False,
}

ASK_AGAIN = (
    'That is not the answer that was asked for. Write only one JSON object, {{"reason": "...", "ranking": [[BEST], '
    "[NEXT], ...]}}, with each of the numbers from 1 to {count} exactly once, and nothing before or after it."
)


@dataclass(frozen=True)
class Ranking:
    """A ranking of answers by a judge."""

    places: list[list[int]]
    """The numbers of the answers, from 1, best first. Answers that share a place are equally good."""
    reason: str


def read_ranking(text: str, count: int) -> Ranking | None:
    """Read the ranking of `count` answers, which may be in a code fence, after reasoning, or in other text.

    The result is None if there is no ranking that holds every answer exactly once, or if there are different rankings.
    """
    rankings = []
    for verdict in objects_after_reasoning(text):
        places = _places(verdict.get("ranking"), count)
        if places is not None:
            rankings.append(Ranking(places, reason_of(verdict)))
    same = rankings and all(_as_sets(other) == _as_sets(rankings[0]) for other in rankings)
    return rankings[0] if same else None


def _places(value: Any, count: int) -> list[list[int]] | None:
    if not isinstance(value, list):
        return None
    places = [[_number(item) for item in place] if isinstance(place, list) else [_number(place)] for place in value]
    numbers = [number for place in places for number in place if number is not None]
    if sorted(numbers) != list(range(1, count + 1)) or sum(map(len, places)) != count:
        return None
    return [[number for number in place if number is not None] for place in places if place]


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 9:
        return int(value)
    return value if type(value) is int else None


def _as_sets(ranking: Ranking) -> list[set[int]]:
    return [set(place) for place in ranking.places]
