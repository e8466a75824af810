"""Reads the samples of a request. The checks are written by hand, because they run for every sample of a training."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from rft_api.foreign.files import most_values
from rft_api.foreign.server_limits import BODY_VALUES
from rft_api.model import Location, format_location

MAXIMUM_SAMPLES = 8192
"""Maximum number of samples in a request, because reading and splitting it blocks the event loop."""
ASSISTANT_ROLES = ("assistant", "nova_assistant")
"""Roles of the message that is scored. Data for Amazon Nova has the second one."""
_SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
"""Digits, all of them as zeros, that may be a number beyond 64 bits, which orjson would turn into a float. Most bodies
have none, and this finds out in a tenth of the time that a regular expression takes."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
"""A text in JSON; one without an end, too, so that looking for texts takes no longer than the body is long."""


class TooLarge(ValueError):
    """A request is too large."""


class BadRequest(ValueError):
    """A request is invalid. The message has the position of the sample and the field."""


def read_samples(body: bytes | bytearray, by_group: bool = False) -> list[dict[str, Any]]:
    """Return the samples of a request. With `by_group`, each needs the id of its group.

    Raises:
        BadRequest: the body is not a JSON array of samples with distinct ids, or holds an integer beyond 64 bits.
        TooLarge: there are too many samples, or values in them.
    """
    # Texts have commas and brackets, too. They are left out of the count only if it matters.
    if most_values(body) > BODY_VALUES and most_values(_TEXT.sub(b"", body)) > BODY_VALUES:
        raise TooLarge(f"the body has more than {BODY_VALUES:,} values: send fewer samples at once")
    try:
        samples = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(samples, list):
        raise BadRequest("the body must be a JSON array of samples")
    if len(samples) > MAXIMUM_SAMPLES:
        raise TooLarge(f"the request has {len(samples)} samples: send at most {MAXIMUM_SAMPLES} at once")
    if _LONG_NUMBER in body.translate(_SAME_DIGITS):
        _refuse_long_integers(body)
    positions: dict[str, int] = {}
    for position, sample in enumerate(samples):
        problem = _problem(sample) or (_group_problem(sample) if by_group else None)
        if problem is not None:
            raise BadRequest(f"[{position}]{problem}")
        first = positions.setdefault(sample["id"], position)
        if first != position:
            raise BadRequest(f"[{position}].id: is the same as that of [{first}]")
    return samples


def _refuse_long_integers(body: bytes | bytearray) -> None:
    """Refuse integers that would be changed on their way to the graders.

    Raises:
        BadRequest: with the place of one of them.
    """
    try:
        pending: list[tuple[Location, Any]] = [((), json.loads(body, parse_int=_LongInteger.parse))]
    except RecursionError:
        raise BadRequest("the body nests too deeply") from None
    while pending:
        location, value = pending.pop()
        if isinstance(value, _LongInteger):
            raise BadRequest(
                f"{format_location(location)}: the integer {value.digits[:100]} does not fit in 64 bits: "
                "write it as text, in quotes"
            )
        if isinstance(value, dict):
            pending += [((*location, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            pending += [((*location, index), inner) for index, inner in enumerate(value)]


class _LongInteger:
    """An integer that does not fit in 64 bits, signed or unsigned."""

    def __init__(self, digits: str):
        self.digits = digits

    @classmethod
    def parse(cls, digits: str) -> int | _LongInteger:
        """Return the integer, if it fits. Only its length is looked at first: Python does not parse thousands of
        digits."""
        if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
            return cls(digits)
        return int(digits)


def _group_problem(sample: dict[str, Any]) -> str | None:
    if not isinstance(sample.get("group"), str) or not sample["group"]:
        return ".group: must be a text that all completions of a prompt share, because spec.scope is Group"
    return None


def _problem(sample: Any) -> str | None:
    if not isinstance(sample, dict):
        return ": must be an object"
    if "id" not in sample:
        return ".id: is required"
    if not isinstance(sample["id"], str) or not sample["id"]:
        return ".id: must be a string that is not empty"
    if "messages" not in sample:
        return ".messages: is required"
    messages = sample["messages"]
    if not isinstance(messages, list) or not messages:
        return ".messages: must be a list with at least one message"
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            return f".messages[{number}]: must be an object"
    if messages[-1].get("role") not in ASSISTANT_ROLES:
        return f".messages[{len(messages) - 1}].role: the last message must be from the assistant: it is scored"
    if not isinstance(sample.get("metadata", {}), (dict, type(None))):
        return ".metadata: must be an object"
    return None
