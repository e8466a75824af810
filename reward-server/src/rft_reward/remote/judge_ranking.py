"""Reads the ranking and its reason from the answer of a judge that compares answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rft_reward.text import writable

_LONGEST_REASON = 4000
_LONGEST_ANSWER = 100_000
_MOST_OPENINGS = 200

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
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:  # the answer was cut off in the reasoning
        return None
    decoder, position = json.JSONDecoder(strict=False), 0
    answer = answer[-_LONGEST_ANSWER:]
    rankings: list[Ranking] = []
    for _ in range(_MOST_OPENINGS):
        position = answer.find("{", position)
        if position < 0:
            break
        try:
            value, position = decoder.raw_decode(answer, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        places = _places(value.get("ranking"), count)
        if places is not None:
            reason = value.get("reason")
            rankings.append(Ranking(places, writable(reason)[:_LONGEST_REASON] if isinstance(reason, str) else ""))
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
