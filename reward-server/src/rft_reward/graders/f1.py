"""The builtin F1: the score is the F1 of labels, or of the words of a text as in SQuAD."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rft_reward.graders.exact_match import last_match, squad
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text, selected_answer
from rft_reward.graders.term import Unscorable

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.F1Reward`."""
    pattern = re.compile(options["pattern"]) if options.get("pattern") else None
    tokens, ignore_case = options["compare"] == "Tokens", options["ignoreCase"]
    key = options.get("answerKey")

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        text = completion_text(sample)
        answer = text if pattern is None else last_match(pattern, text)
        if tokens:
            expected = Counter(squad(expected_text(sample, key)).split())
            actual = Counter(squad(answer or "").split())
        else:
            expected = Counter(_expected_labels(sample, key, ignore_case))
            actual = Counter(labels(answer or "", ignore_case))
        precision, recall, score = overlap(actual, expected)
        return score, [("f1", score, "Reward"), ("precision", precision, "Metric"), ("recall", recall, "Metric")]

    return grade


def overlap(actual: Counter[Any], expected: Counter[Any]) -> tuple[float, float, float]:
    """Return precision, recall and F1. They are 1 if nothing is expected and nothing was given."""
    if not actual and not expected:
        return 1.0, 1.0, 1.0
    common = (actual & expected).total()
    if not common:
        return 0.0, 0.0, 0.0
    return common / actual.total(), common / expected.total(), 2 * common / (actual.total() + expected.total())


def labels(text: str, ignore_case: bool) -> set[str]:
    """Return the labels of a text: those of a JSON list, or those that commas and line breaks separate, without
    bullets."""
    text = text.strip()
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except (ValueError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(_is_label(label) for label in listed):
            return _normalized((str(label) for label in listed), ignore_case)
    return _normalized((_BULLET.sub("", part) for part in re.split(r"[,\n]", text)), ignore_case)


def _expected_labels(sample: dict[str, Any], key: str | None, ignore_case: bool) -> set[str]:
    expected = selected_answer(sample, key)
    if isinstance(expected, str):
        return labels(expected, ignore_case)
    if isinstance(expected, list) and all(_is_label(label) for label in expected):
        return _normalized((str(label) for label in expected), ignore_case)
    raise Unscorable("the reference_answer is neither a text nor a list of labels (texts or numbers)")


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _normalized(texts: Iterable[str], ignore_case: bool) -> set[str]:
    stripped = (text.strip().strip("\"'") for text in texts)
    return {label.casefold() if ignore_case else label for label in stripped if label}
