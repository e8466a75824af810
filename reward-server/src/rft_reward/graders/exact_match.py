"""The builtin ExactMatch: the score is 1 if the answer is the expected text, and 0 otherwise."""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Any

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, expected_text

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.ExactMatchReward`."""
    pattern = re.compile(options["pattern"]) if options.get("pattern") else None

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        expected = normalize(expected_text(sample, options.get("answerKey")), options)
        text = completion_text(sample)
        answer = text if pattern is None else last_match(pattern, text)
        score = float(answer is not None and normalize(answer, options) == expected)
        return score, [("exact_match", score, "Reward"), ("answer_found", float(answer is not None), "Metric")]

    return grade


def normalize(text: str, options: dict[str, Any]) -> str:
    """Remove the differences that the options ignore."""
    if options["squad"]:
        return squad(text)
    if options["ignoreCase"]:
        text = text.casefold()
    if options["ignorePunctuation"]:
        text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
    if options["ignoreWhitespace"]:
        text = " ".join(text.split())
    return text.strip()


def squad(text: str) -> str:
    """Normalize a text as SQuAD's evaluation does: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the first group of the pattern's last match, or the whole match if there is no group; None without a
    match."""
    last = None
    for match in pattern.finditer(text):
        last = match
    if last is None:
        return None
    return last[1] if pattern.groups else last[0]
