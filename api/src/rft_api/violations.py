"""Turns errors of pydantic into messages for users, each with its location in the document."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from rft_api.foreign.text import one_line
from rft_api.model import Location, RuleViolations, Violation

_KEY = "[key]"
"""The last part of the location of an error of pydantic that is about the key of a mapping."""
_LONGEST_VALUE = 60
"""Characters of a wrong value that a message shows."""
_LONGEST_WORD = 128
"""Characters of a word for which a similar one is looked for: the search takes time that grows with the word."""
MOST_VIOLATIONS = 20
"""Violations of a document that are named, unless its place has a number of its own."""
_MOST_COUNTED = 10_000
"""Errors of pydantic that are looked at. It makes a mapping for each of them, which takes two microseconds and hundreds
of bytes, before the first one can be read; whoever writes the document may make millions of them."""


def violations(
    invalid: ValidationError, document: Any, model: type[BaseModel], most: int = MOST_VIOLATIONS
) -> Iterator[Violation]:
    """Yield the violations of a document's model, each with its location from the root of the document.

    The document may be foreign: of many violations, the first are named, and the last one yielded says how many more
    there are.

    Args:
        invalid: the error that the validation of the document raised.
        document: the document.
        model: the model of the document, whose field names are suggested for unknown fields.
        most: the largest number of violations that are named.
    """
    count = invalid.error_count()
    if count > _MOST_COUNTED:
        yield Violation(f"has {count:,} wrong or unknown fields, which are too many to name")
        return
    named = 0
    for index, detail in enumerate(invalid.errors(include_url=False)):
        if named >= most:
            yield Violation(f"and {_count(count - index, 'more error')}")
            return
        location = _in_document(document, tuple(detail["loc"]), detail["type"])
        error = (detail.get("ctx") or {}).get("error")
        if isinstance(error, RuleViolations):
            named += len(error.violations)
            for violation in error.violations:
                yield replace(violation, location=(*location, *violation.location))
        else:
            named += 1
            yield Violation(_message(detail, model), location)


def _in_document(document: Any, location: Location, kind: str) -> Location:
    """Return the location without the tags of unions, which pydantic puts between the names of fields."""
    kept: list[int | str] = []
    for index, part in enumerate(location[:-1] if location[-1:] == (_KEY,) else location):
        missing = kind == "missing" and index == len(location) - 1
        if isinstance(document, dict) and part not in document and not missing:
            continue
        kept.append(part)
        try:
            document = document[part]
        except (LookupError, TypeError):
            document = None
    return tuple(kept)


def _message(detail: Any, model: type[BaseModel]) -> str:
    if detail["loc"] and detail["loc"][-1] == _KEY:
        return f"every key must be a string: write {_in_quotes(detail['input'])}"
    context = detail.get("ctx") or {}
    match detail["type"]:
        case "missing":
            return "is required"
        case "union_tag_not_found" | "union_tag_invalid":
            expected = context.get("expected_tags")
            return "needs a type" + (f": one of {expected}" if expected else "")
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a mapping of fields"
        case "extra_forbidden":
            close = _similar(str(detail["loc"][-1]), _field_names(model, detail["loc"][:-1]))
            return "unknown field" + (f"; did you mean {close}?" if close else "")
        case "string_type" | "string_unicode":
            return f"must be a string{_as_string(detail['input'])}"
        case "bool_type":
            return f"must be true or false, without quotes{_not_this(detail['input'])}"
        case "invalid_key":
            return "unknown field; the name of a field is a string"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return f"must be a whole number{_as_number(detail['input'], int)}"
        case "float_type" | "float_parsing":
            return f"must be a number{_as_number(detail['input'], float)}"
        case "finite_number":
            return "must be a finite number"
        case "list_type":
            return f"must be a list{_not_this(detail['input'])}"
        case "literal_error":
            return _one_of(context["expected"], detail["input"])
        case "greater_than_equal":
            return f"must be at least {context['ge']}{_not_this(detail['input'])}"
        case "less_than_equal":
            return f"must be at most {context['le']}{_not_this(detail['input'])}"
        case "string_too_short":
            return f"must have at least {_count(context['min_length'], 'character')}"
        case "string_too_long":
            return f"must have at most {_count(context['max_length'], 'character')}, and has {len(detail['input']):,}"
        case "too_short":
            return f"must have at least {_count(context['min_length'], 'item')}"
        case "too_long":
            return f"must have at most {_count(context['max_length'], 'item')}, and has {len(detail['input']):,}"
        case "string_pattern_mismatch":
            return f"must match the regular expression {context['pattern']}{_not_this(detail['input'])}"
    message = str(detail["msg"])
    return message[0].lower() + message[1:]


def _one_of(expected: str, value: Any) -> str:
    """Return the message for a value that is none of some; pydantic lists them as `'a', 'b' or 'c'`."""
    choices = re.findall(r"'([^']*)'|(-?[0-9]+)", expected)
    names = {(text or number).lower(): text or number for text, number in choices}
    close = _similar(value.lower(), names) if isinstance(value, str) and len(names) > 1 else None
    hint = f"; did you mean {names[close]}?" if close else _not_this(value)
    return f"must be {'one of ' if len(names) > 1 else ''}{', '.join(names.values())}{hint}"


def _similar(word: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to a word; None when there is none, or the word is long."""
    return next(iter(get_close_matches(word, names, n=1)), None) if len(word) <= _LONGEST_WORD else None


def _as_string(value: Any) -> str:
    """Return how to write a value that is no string as a string; for others, what it is."""
    if isinstance(value, (bool, int, float, date)):
        return f": write {_in_quotes(value)}, in quotes"
    return " without half surrogate pairs" if isinstance(value, str) else _not_this(value)


def _as_number(value: Any, number: type[int] | type[float]) -> str:
    """Return how to write a text that is a number as a number; for other values, what they are."""
    try:
        if isinstance(value, str) and math.isfinite(number(value)):
            return f": write {number(value)}, without quotes"
    except (ValueError, OverflowError):
        pass
    return _not_this(value)


def _in_quotes(value: Any) -> str:
    return f'"{_shown(value)}"'


def _not_this(value: Any) -> str:
    """Return the end of a message that says what stands in the place of the right value."""
    if isinstance(value, dict):
        return ", not a mapping of fields"
    if isinstance(value, list):
        return ", not a list"
    return f", not {_in_quotes(value) if isinstance(value, str) else _shown(value)}"


def _shown(value: Any) -> str:
    words = {None: "empty (null)", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    return words[value] if is_word else one_line(str(value), _LONGEST_VALUE)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Return the names that could stand at a place: the fields of the model found by walking down the annotations."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        inner = next((f for n, f in current.model_fields.items() if part in (f.alias, n)), None)
        model_inside = _model_in(inner.annotation) if inner is not None else None
        if model_inside is None:
            return []
        current = model_inside
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if model := _model_in(argument):
            return model
    return None
