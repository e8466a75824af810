"""JSON of users, read so that every later part has the values that its text says; what cannot be carried is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from rft_api.model import Json, Location, format_location

MAXIMUM_NESTING = 200
"""Levels of objects and lists in a row. The reward server's JSON writer (orjson) takes 254, and a sample adds a few
around those of the row."""
_LONGEST_NUMBER = 400
"""Characters of a number: more than any number of Python's float has. To look at one of a million takes seconds, and 70
times as much memory."""
_SPACE = re.compile(r"[ \t\r\n]*")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")

Number = TypeVar("Number", int, float)


class NotCarried(ValueError):
    """A value that Python's JSON reader takes and a later part does not; the message follows the name of its field."""


def parse_line(text: bytes) -> Any:
    """Parse a line; returns its JSON value, which may hold what Python reads beyond JSON, such as NaN.

    Raises:
        ValueError: when it is none, or nested more than `MAXIMUM_NESTING` levels deep; the message says why, as the end
            of a sentence about the line.
    """
    return _explained(text, _decode_leniently)


def parse_text(text: str) -> Any:
    """Parse a JSON text inside of another document; else as `parse_line`.

    Raises:
        ValueError: as `parse_line`.
    """
    return _explained(text, _decode_leniently)


def parse_row(text: bytes) -> Any:
    """Parse a line of data; returns its JSON value, which every later part can carry unchanged.

    Raises:
        ValueError: when it is none; the message says why, as the end of a sentence about the line.
    """
    return _explained(text, _decode_line)


def first_fault(value: Any) -> str | None:
    """Return the first place in a value that a later part could not carry, with the reason; None when all can be
    carried."""
    stack: list[tuple[Location, Any]] = [((), value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, (dict, list)):
            if len(place) == MAXIMUM_NESTING:
                reason = f"is nested more than {MAXIMUM_NESTING} levels deep; write the inner part as a text"
                return _at(place[:1], reason)
            children = list(item.items() if isinstance(item, dict) else enumerate(item))
            for key, _ in children:
                if isinstance(key, str) and _HALF.search(key):
                    return _at((*place, key), f"has a name with {_half_pair(key)}")
            stack.extend(((*place, key), child) for key, child in reversed(children))
        elif isinstance(item, str):
            if _HALF.search(item):
                return _at(place, f"has {_half_pair(item)}")
        elif isinstance(item, NotCarried):
            return _at(place, str(item))
        elif isinstance(item, float) and not math.isfinite(item):
            return _at(place, _not_a_number(str(item)))
        elif not isinstance(item, (bool, int, float, type(None))):
            return _at(place, f"is of type {type(item).__name__}, which JSON does not have; leave the field out")
    return None


def not_utf8(byte: int) -> str:
    """Return what to say about a line that is not UTF-8, from the number of its first wrong byte, counted from 1."""
    return f"is not UTF-8 (byte {byte} of the line)"


def _explained(text: bytes | str, parse: Callable[[str], Any]) -> Any:
    """Parse a line; a failure gets a message that is the end of a sentence about the line."""
    try:
        return parse(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(not_utf8(error.start + 1)) from None
    except RecursionError:
        raise ValueError("is not JSON: it is nested too deeply") from None
    except NotCarried:
        raise
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


def _decode_leniently(text: str) -> Any:
    value = _LENIENT.decode(text)
    # What is nested deeply is read here, and raises RecursionError where somebody writes or compares it.
    if _may_be_deep(text, 0, len(text)) and _is_deep(value):
        raise NotCarried(f"is nested more than {MAXIMUM_NESTING} levels deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAXIMUM_NESTING + 1):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)


def _may_be_deep(text: str, start: int, end: int) -> bool:
    return text.count("[", start, end) + text.count("{", start, end) > MAXIMUM_NESTING


def _decode_line(text: str) -> Any:
    value, end, fault = decode(text, after_space(text, 0))
    end = after_space(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    if fault:
        raise NotCarried(fault)
    return value


def decode(text: str, start: int) -> tuple[Any, int, str | None]:
    """Parse the value at a position; returns it, the position after it, and why it cannot be carried, or None.

    Raises:
        JSONDecodeError: when there is no value.
        RecursionError: when it is nested too deeply to be parsed.
    """
    try:
        value, end = _STRICT.raw_decode(text, start)
    except NotCarried:
        value, end = _MARKING.raw_decode(text, start)
        return value, end, first_fault(value)
    # Looking at every value would take as long as parsing: a look at the text tells which rows need it.
    if _may_be_deep(text, start, end) or _ESCAPED_HALF.search(text, start, end):
        return value, end, first_fault(value)
    return value, end, None


def _integer(text: str) -> int:
    if len(text) <= 20 and -(1 << 63) <= (value := int(text)) < 1 << 64:
        return value
    raise NotCarried("is an integer of more than 64 bits, which programs read differently; write it as a text")


def _lenient_integer(text: str) -> int:
    # Python takes time that grows with the square of the number of digits, and refuses more than 4,300.
    if len(text) > _LONGEST_NUMBER:
        raise NotCarried(f"has an integer of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _LONGEST_NUMBER:
        raise NotCarried(f"is a number of {len(text):,} characters, more than programs read; write it as a text")
    value = float(text)
    if not math.isfinite(value):
        raise NotCarried(f"is too large for a number ({text[:20]}); write it as a text")
    if (len(text) > 15 or not value) and not _is_kept(text, value):
        raise NotCarried(f"is rounded when it is read as a number ({text[:30]} becomes {value!r}); write it as a text")
    return value


def _is_kept(text: str, value: float) -> bool:
    """Return whether a number is what its text says.

    A number keeps 15 digits. Programs write up to 17, from which the number can be read again: 0.1 may be written as
    0.10000000000000001. More digits, and whole numbers that come out as others, are meant as they are written.
    """
    try:
        exact = Decimal(text)
    except InvalidOperation:  # its exponent has too many digits
        return False
    if exact == Decimal(repr(value)):
        return True
    digits = "".join(map(str, exact.as_tuple().digits)).strip("0")
    is_whole = text.rstrip("0").endswith(".")
    return len(digits) <= 17 and value != 0 and not is_whole


def _constant(text: str) -> float:
    raise NotCarried(_not_a_number(text))


def _not_a_number(text: str) -> str:
    return f"is {text}, which JSON does not have; write null or a text"


def _marked(read: Callable[[str], Number]) -> Callable[[str], Number | NotCarried]:
    """Return the error in place of the value, so that its place can be found."""

    def mark(text: str) -> Number | NotCarried:
        try:
            return read(text)
        except NotCarried as error:
            return error

    return mark


def _object(pairs: list[tuple[str, Any]]) -> Json:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise NotCarried(_TWICE)
    return fields


def _marked_object(pairs: list[tuple[str, Any]]) -> Json:
    fields: Json = {}
    for name, value in pairs:
        fields[name] = NotCarried(_TWICE) if name in fields else value
    return fields


_TWICE = "is in the object twice, so that programs read different values; remove one of them"
_LENIENT = json.JSONDecoder(parse_int=_lenient_integer)
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_MARKING = json.JSONDecoder(
    object_pairs_hook=_marked_object,
    parse_int=_marked(_integer),
    parse_float=_marked(_float),
    parse_constant=_marked(_constant),
)


def _half_pair(text: str) -> str:
    match = _HALF.search(text)
    half = f" (\\u{ord(match.group()):04x})" if match else ""
    return f"half of a surrogate pair{half}, which is no character; correct or remove it"


def _at(place: Location, reason: str) -> str:
    name = format_location(place).encode("utf-8", "backslashreplace").decode()
    return f"{name} {reason}".lstrip()


def after_space(text: str, position: int) -> int:
    """Return the position of the first character at or after a position that is not white space."""
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
