"""Texts for a terminal: harmless whatever a model or a log says, numbers at a readable length."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise

from rft_api.model import Json

_BARS = "▁▂▃▄▅▆▇█"


def harmless(text: str) -> str:
    """The text with control characters spelled out, so that it cannot steer the terminal."""
    return "".join(
        character if character.isprintable() or character in "\n" else ascii(character)[1:-1] for character in text
    )


def shorten(text: str, limit: int) -> str:
    """The text as harmless, cut in the middle to about `limit` characters."""
    text = harmless(text.strip())
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {text[-half:]}"


def number(value: float | None, digits: int = 3) -> str:
    """A measured value with a fixed number of decimals; a dash when there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, always with its sign, and a true minus."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """The values as a line of small bars, averaged down to `width` of them."""
    if not values:
        return ""
    if len(values) > width:
        edges = [round(index * len(values) / width) for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    span = high - low
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1) + 0.5) if span else 3] for value in values)


def bars(counts: Sequence[int]) -> str:
    """Counts as a line of small bars; a dot stands for none."""
    most = max(counts, default=0)
    return "".join(_BARS[math.ceil(count / most * len(_BARS)) - 1] if count else "·" for count in counts)


def last_user_message(conversation: str) -> str:
    """The last user message of a stored conversation (JSON)."""
    messages: list[Json] = json.loads(conversation)
    return next((str(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), conversation)
