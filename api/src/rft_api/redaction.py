"""Replaces text by regular expressions in linear time: RE2's, as Arrow carries it; needs the extra `logs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rft_api.invocation_log import Redaction, RedactionPattern


def pattern_problem(rule: RedactionPattern) -> str | None:
    """What is wrong with a replacement; none when it can be used."""
    import pyarrow

    try:
        _replace(rule, "")
    except pyarrow.ArrowInvalid as error:
        return f"is not a regular expression that RE2 knows: {error}"
    return None


def redactor(redaction: Redaction | None) -> Callable[[str], str]:
    """A function that replaces what is to be removed.

    The texts come from anyone who talks to the application, so that a backtracking engine would hand each of them the
    means to make a run stand still.

    Raises:
        ValueError: when a pattern cannot be used.
    """
    rules = redaction.patterns if redaction else []
    problems = [f"redact.patterns: {rule.pattern}: {problem}" for rule in rules if (problem := pattern_problem(rule))]
    if problems:
        raise ValueError("; ".join(problems))

    def redact(text: str) -> str:
        for rule in rules:
            text = _replace(rule, text)
        return text

    return redact


def _replace(rule: RedactionPattern, text: str) -> str:
    # Slow to import, and needed by few jobs.
    import pyarrow
    import pyarrow.compute

    replaced: Any = pyarrow.compute.replace_substring_regex(
        pyarrow.scalar(text), pattern=rule.pattern, replacement=rule.replacement
    )
    return str(replaced.as_py())
