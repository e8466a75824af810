"""Format texts and numbers for a terminal, also texts of models and logs, which may hold control characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rft_api.exact_json import parse_text
from rft_api.foreign.text import printable
from rft_api.summary import DataReport

_BARS = "▁▂▃▄▅▆▇█"


def shorten(text: str, limit: int) -> str:
    """Return the text with escaped control characters; cut out the middle when it is longer than `limit` characters."""
    text, half = text.strip(), limit // 2
    whole = printable(text) if len(text) <= limit else ""
    if whole and len(whole) <= limit:
        return whole
    # A character becomes one or more, so that half of the text has what is shown of it. The text may be of any size.
    return f"{printable(text[:half])[:half]} … {printable(text[-half:])[-half:]}" if text else ""


def short_path(path: str | Path) -> str:
    """Return a path relative to the current folder if it is in there; other paths and addresses stay as they are."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # The current folder may have been deleted.
        return str(path)


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
    messages = read_cell(conversation)
    turns = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return next((str(turn.get("content")) for turn in reversed(turns) if turn.get("role") == "user"), conversation)


def read_cell(text: str) -> Any:
    """Return the JSON value in a cell of a table of rollouts; the text itself when it is none.

    The tables are files of a run, which anybody may have changed who can write to its folder.
    """
    try:
        return parse_text(text)
    except ValueError:
        return text


def describe_data(data: DataReport) -> str:
    """Return how many rows a run has read, and for what."""
    conversations = data.warmup_conversations
    if data.warmup_validation_conversations:
        text = (
            f"{conversations} conversations that were imitated, {data.warmup_validation_conversations} for validation"
        )
        return text + (f", {data.test_prompts} test prompts" if data.test_prompts else "")
    text = f"{data.train_prompts} training, {data.validation_prompts} validation, {data.test_prompts} test prompts"
    return text + (f", {conversations} warm-up conversations" if conversations else "")
