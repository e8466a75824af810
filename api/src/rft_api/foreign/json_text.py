"""Parses foreign JSON: of a limited size and depth, with numbers that other programs read alike."""

from __future__ import annotations

import json
import math
from typing import Any

MAXIMUM_NESTING = 200
"""Levels of objects and lists. orjson, with which the reward server writes JSON, takes 254."""
MAXIMUM_DIGITS = 400
"""Digits of an integer; converting digits takes time that grows with the square of their number."""


def parse_json(content: bytes | str, maximum_bytes: int, maximum_nesting: int = MAXIMUM_NESTING) -> Any:
    """Parse JSON.

    Args:
        content: the JSON.
        maximum_bytes: its largest size; characters, if it is a text.
        maximum_nesting: the largest number of objects and lists inside each other.

    Raises:
        ValueError: when it is too large, nested too deeply, or no JSON; NaN and infinities are none.
    """
    if len(content) > maximum_bytes:
        raise ValueError(f"is larger than {format_size(maximum_bytes)}")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1})") from None
    except RecursionError:
        raise ValueError(f"is nested more than {maximum_nesting} levels deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if text.count("[") + text.count("{") > maximum_nesting and nesting(value) > maximum_nesting:
        raise ValueError(f"is nested more than {maximum_nesting} levels deep")
    return value


def nesting(value: Any) -> int:
    """Return how many objects and lists of a JSON value are inside each other; 0 for a text or a number."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        deepest += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return deepest


def format_size(size: int) -> str:
    """Return a number of bytes as people say it: 64 KiB, 8 MiB."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def _integer(digits: str) -> int:
    if len(digits) > MAXIMUM_DIGITS:
        raise ValueError(f"has an integer of {len(digits):,} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"has a number that is too large ({digits[:20]})")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"has {name}, which is no JSON")
