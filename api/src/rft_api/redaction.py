"""Replaces text by regular expressions in linear time, with the RE2 of Apache Arrow; needs the extra `logs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rft_api.invocation_log import Redaction, RedactionPattern


def pattern_problem(rule: RedactionPattern) -> str | None:
    """Return the problem of a pattern; None when the pattern can be used."""
    import pyarrow

    try:
        _replace(rule, "")
    except pyarrow.ArrowInvalid as error:
        return f"is not a regular expression that RE2 knows: {error}"
    return None


def redactor(redaction: Redaction | None) -> Callable[[str], str]:
    """Return a function that replaces the text that is to be removed.

    Anyone who talks to the application can write the texts. With a backtracking engine, a text could stop a run.

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
