"""Encodes the values between the process of a completion and that of its tests: plain data, and references.

Nothing else is rebuilt on the other side. So what a completion returns is plain data when it is compared, whatever its
class was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST_MESSAGE = 16 * 1024 * 1024

_BUILDERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "Decimal": Decimal,
    "Fraction": lambda parts: Fraction(*parts),
}


class References:
    """The values of this side that the other side refers to by a number."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def number(self, value: Any) -> int:
        """Store a value, and return its number for the other side."""
        self._values.append(value)
        return len(self._values) - 1

    def __getitem__(self, number: int) -> Any:
        return self._values[number]


def encode(value: Any, refer: Callable[[Any], Any]) -> Any:
    """Encode a value as JSON. `refer` encodes what is not plain data. Instances of subclasses become plain data."""
    match value:
        case None | True | False:
            return value
        case bool():
            return bool(value)
        case int():
            return int.__index__(value)
        case float():
            return float.__float__(value)
        case str():
            return str.__str__(value)
        case list():
            return [encode(item, refer) for item in list.__iter__(value)]
        case tuple():
            return {"tuple": [encode(item, refer) for item in tuple.__iter__(value)]}
        case dict():
            return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]}
        case frozenset():
            return {"frozenset": [encode(item, refer) for item in value]}
        case set():
            return {"set": [encode(item, refer) for item in value]}
        case bytes():
            return {"bytes": bytes.hex(value)}
        case complex():
            return {"complex": [value.real, value.imag]}
        case Decimal():
            return {"Decimal": str(value)}
        case Fraction():
            return {"Fraction": [value.numerator, value.denominator]}
    return refer(value)


def decode(value: Any, resolve: Callable[[str, Any], Any]) -> Any:
    """Decode a value. `resolve` returns the object of a reference, from its kind and number."""
    if isinstance(value, list):
        return [decode(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "dict":
        return {decode(key, resolve): decode(item, resolve) for key, item in inner}
    builder = _BUILDERS.get(kind)
    if builder is None:
        return resolve(kind, inner)
    return builder(decode(inner, resolve))


def write(stream: Any, message: dict[str, Any]) -> None:
    """Send a message."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def read(stream: Any) -> dict[str, Any]:
    """Receive the next message.

    Raises:
        EOFError: the other side has ended, or has sent too much.
    """
    line = stream.readline(LONGEST_MESSAGE)
    if not line.endswith(b"\n"):
        raise EOFError("the other process ended or sent too much")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise EOFError("the other process sent something else than a message")
    return message
