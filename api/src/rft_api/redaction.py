"""Replaces text by regular expressions in linear time, with the RE2 of Apache Arrow; needs the extra `logs`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rft_api.foreign.sizes import format_size
from rft_api.invocation_log import Redaction, RedactionPattern

_MOST_BYTES_OF_A_CHARACTER = 4
_TIMES_THE_ROOM = 4
"""A text that a rule would make longer than this many times the room is refused without being made. An estimate counts
more of the groups than they bring back, so what is less is made and measured."""
_ESCAPE = re.compile(r"(?<!\\)\\++(?:u(d[89ab][0-9a-f]{2})\\++u(d[c-f][0-9a-f]{2})|u([0-9a-f]{4})|(/))", re.IGNORECASE)
"""A character as JSON may write it, in a text or in a text within a text, where every backslash is two. Backslashes are
taken all at once, so that the time is linear."""


class RedactedTooLong(Exception):
    """The texts of a record would be longer than its room after a rule."""


class Redactor:
    """Replaces the text that is to be removed.

    Anyone who talks to the application can write the texts. With a backtracking engine, a text could stop a run. A
    replacement can be longer than what it replaces, rule after rule, so the texts of a record have a room together.

    Args:
        rules: the rules, which can all be used.
    """

    def __init__(self, rules: Sequence[RedactionPattern]):
        self._rules = rules

    def of_record(self, room: int) -> Callable[[str], str]:
        """Return a function that replaces in the texts of one record.

        Arguments of tools and other texts may be JSON, in which `@` may be `\\u0040`. If a rule removes something from
        a text whose escapes are written as the characters that they stand for, that is the result.

        It raises RedactedTooLong when the texts together, or one of them after a rule, exceed the room, in bytes of
        UTF-8. Without rules, there is no room to exceed.
        """
        left = room

        def apply(text: str) -> str:
            for rule in self._rules:
                text = _replace_within(rule, text, left, room)
            return text

        def redact(text: str) -> str:
            nonlocal left
            if not self._rules:
                return text
            plain = _without_escapes(text)
            redacted = apply(plain)
            text = redacted if redacted != plain or plain == text else apply(text)
            left -= len(text.encode())
            if left < 0:
                raise _too_long(room)
            return text

        return redact


def pattern_problem(rule: RedactionPattern) -> str | None:
    """Return the problem of a pattern; None when the pattern can be used."""
    import pyarrow

    try:
        _replace(rule.pattern, rule.replacement, "")
    except pyarrow.ArrowInvalid as error:
        return f"is not a regular expression that RE2 knows: {error}"
    return None


def redactor(redaction: Redaction | None) -> Redactor:
    """Return what replaces the text that is to be removed.

    Raises:
        ValueError: when a pattern cannot be used.
    """
    rules = redaction.patterns if redaction else []
    problems = [f"redact.patterns: {rule.pattern}: {problem}" for rule in rules if (problem := pattern_problem(rule))]
    if problems:
        raise ValueError("; ".join(problems))
    return Redactor(rules)


def _replace_within(rule: RedactionPattern, text: str, left: int, room: int) -> str:
    """Apply a rule, unless the text could become much longer than what is left: that is found out first.

    Raises:
        RedactedTooLong: when it would be longer than what is left.
    """
    replacement = len(rule.replacement.encode())
    groups = rule.replacement.count("\\")  # at most; each brings a part of its match back
    size = _MOST_BYTES_OF_A_CHARACTER * len(text)
    is_short = size + (size + 1) * replacement + size * groups <= left
    if not is_short:
        kept = len(_replace(rule.pattern, "", text).encode())
        matches = len(_replace(rule.pattern, "x", text).encode()) - kept
        matched = len(text.encode()) - kept
        if kept + matches * replacement + matched * groups > _TIMES_THE_ROOM * left:
            raise _too_long(room)
    replaced = _replace(rule.pattern, rule.replacement, text)
    if not is_short and len(replaced.encode()) > left:
        raise _too_long(room)
    return replaced


def _without_escapes(text: str) -> str:
    """Return a text with characters in the place of escapes that JSON does not need: it stays valid JSON."""
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(escape: re.Match[str]) -> str:
    high, low, single, slash = escape.groups()
    if high:
        return bytes.fromhex(high + low).decode("utf-16-be")
    character = slash or chr(int(single, 16))
    needed = character < " " or character in '"\\' or "\ud800" <= character <= "\udfff"
    return escape[0] if needed else character


def _too_long(room: int) -> RedactedTooLong:
    return RedactedTooLong(f"is longer than {format_size(room)} once its texts are redacted")


def _replace(pattern: str, replacement: str, text: str) -> str:
    # Slow to import, and needed by few jobs.
    import pyarrow
    import pyarrow.compute

    replaced: Any = pyarrow.compute.replace_substring_regex(
        pyarrow.scalar(text), pattern=pattern, replacement=replacement
    )
    return str(replaced.as_py())
