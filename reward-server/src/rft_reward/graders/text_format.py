"""The builtin Format: the score is the share of the stated constraints that the completion satisfies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text

# Final punctuation and closing quotation marks before white space or the end. Scripts without spaces need no space.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[」』”]*")

_MEASURES: dict[str, Callable[[str], int]] = {
    "Characters": len,
    "Words": lambda text: len(text.split()),
    "Sentences": lambda text: sum(any(map(str.isalnum, part)) for part in _SENTENCE_END.split(text)),
    "Lines": lambda text: sum(not line.isspace() and line != "" for line in text.splitlines()),
}


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.FormatReward`."""
    pattern = re.compile(options["pattern"], re.DOTALL) if options.get("pattern") else None
    bounds = [
        (measure, options.get(f"minimum{unit}"), options.get(f"maximum{unit}"), unit.lower())
        for unit, measure in _MEASURES.items()
        if options.get(f"minimum{unit}") is not None or options.get(f"maximum{unit}") is not None
    ]
    language = options.get("language")
    is_in: Callable[[str, str], bool] | None = None
    if language is not None:
        from rft_reward.graders import language as languages  # its tables have several megabytes

        is_in = languages.is_in

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        text = completion_text(sample)
        kept: dict[str, bool] = {}
        if pattern is not None:
            kept["pattern"] = pattern.fullmatch(text) is not None
        for measure, minimum, maximum, unit in bounds:
            size = measure(text)
            if minimum is not None:
                kept[f"minimum_{unit}"] = size >= minimum
            if maximum is not None:
                kept[f"maximum_{unit}"] = size <= maximum
        for number, included in enumerate(options["contains"], 1):
            kept[f"contains/{number}"] = included in text
        for number, excluded in enumerate(options["excludes"], 1):
            kept[f"excludes/{number}"] = excluded not in text
        if is_in is not None:
            kept["language"] = is_in(text, str(language))
        return sum(kept.values()) / len(kept), [(name, float(value), "Reward") for name, value in kept.items()]

    return grade
