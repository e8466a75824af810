"""Format texts and numbers for a terminal, also texts of models and logs, which may hold control characters."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise

from rft_api.model import Json

_BARS = "▁▂▃▄▅▆▇█"


def harmless(text: str) -> str:
    """Return the text with its control characters escaped, so that it cannot control the terminal."""
    return "".join(
        character if character.isprintable() or character in "\n" else ascii(character)[1:-1] for character in text
    )


def shorten(text: str, limit: int) -> str:
    """Return the text with escaped control characters; cut out the middle when it is longer than `limit` characters."""
    text = harmless(text.strip())
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {text[-half:]}"


def number(value: float | None, digits: int = 3) -> str:
    """Format a value with a fixed number of decimals; None becomes a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign, which is + or the typographic minus (U+2212)."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """Draw the values as a line of small bars; more than `width` values are averaged to `width` bars."""
    if not values:
        return ""
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    span = high - low
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1) + 0.5) if span else 3] for value in values)


def bars(counts: Sequence[int]) -> str:
    """Draw the counts as a line of small bars; a dot stands for 0."""
    maximum = max(counts, default=0)
    return "".join(_BARS[math.ceil(count / maximum * len(_BARS)) - 1] if count else "·" for count in counts)


def last_user_message(conversation: str) -> str:
    """Return the last user message of a conversation in JSON; the whole text when it has none."""
    messages: list[Json] = json.loads(conversation)
    return next((str(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), conversation)
