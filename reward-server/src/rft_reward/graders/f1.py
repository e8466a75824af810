"""The builtin F1: precision and recall of labels, or of the words of a text as SQuAD compares them."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from rft_reward.graders.exact_match import last_match, squad
from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text, selected_answer
from rft_reward.graders.term import Unscorable

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


def build(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.builtin_table.F1Reward`."""
    pattern = re.compile(options["pattern"]) if options.get("pattern") else None
    tokens, ignore_case = options["compare"] == "Tokens", options["ignoreCase"]
    key = options.get("answerKey")

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        text = completion_text(sample)
        answer = text if pattern is None else last_match(pattern, text)
        if tokens:
            wanted = Counter(squad(expected_text(sample, key)).split())
            given = Counter(squad(answer or "").split())
        else:
            wanted = Counter(_expected_labels(sample, key, ignore_case))
            given = Counter(labels(answer or "", ignore_case))
        precision, recall, score = overlap(given, wanted)
        return score, [("f1", score, "Reward"), ("precision", precision, "Metric"), ("recall", recall, "Metric")]

    return grade


def overlap(given: Counter[Any], wanted: Counter[Any]) -> tuple[float, float, float]:
    """Precision, recall and F1; nothing given where nothing is wanted is right."""
    if not given and not wanted:
        return 1.0, 1.0, 1.0
    common = (given & wanted).total()
    if not common:
        return 0.0, 0.0, 0.0
    return common / given.total(), common / wanted.total(), 2 * common / (given.total() + wanted.total())


def labels(text: str, ignore_case: bool) -> set[str]:
    """The labels of a text: a JSON list's, or what commas and lines separate, without bullets."""
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
    wanted = selected_answer(sample, key)
    if isinstance(wanted, str):
        return labels(wanted, ignore_case)
    if isinstance(wanted, list) and all(_is_label(label) for label in wanted):
        return _normalized((str(label) for label in wanted), ignore_case)
    raise Unscorable("the reference_answer is neither a text nor a list of labels (texts or numbers)")


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _normalized(found: Any, ignore_case: bool) -> set[str]:
    stripped = (label.strip().strip("\"'") for label in found)
    return {label.casefold() if ignore_case else label for label in stripped if label}
