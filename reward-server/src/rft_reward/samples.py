"""Reads the samples of a request. The checks are written by hand, because they run for every sample of a training."""

from __future__ import annotations

from typing import Any

import orjson

MAXIMUM_SAMPLES = 8192
"""Maximum number of samples in a request, because reading and splitting it blocks the event loop."""


class TooLarge(ValueError):
    """A request is too large."""


class BadRequest(ValueError):
    """A request is invalid. The message has the position of the sample and the field."""


def read_samples(body: bytes) -> list[dict[str, Any]]:
    """The samples of a request.

    Raises:
        BadRequest: the body is not a JSON array of samples with distinct ids.
        TooLarge: there are too many samples.
    """
    try:
        samples = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(samples, list):
        raise BadRequest("the body must be a JSON array of samples")
    if len(samples) > MAXIMUM_SAMPLES:
        raise TooLarge(f"the request has {len(samples)} samples: send at most {MAXIMUM_SAMPLES} at once")
    positions: dict[str, int] = {}
    for position, sample in enumerate(samples):
        problem = _problem(sample)
        if problem is not None:
            raise BadRequest(f"[{position}]{problem}")
        first = positions.setdefault(sample["id"], position)
        if first != position:
            raise BadRequest(f"[{position}].id: is the same as that of [{first}]")
    return samples


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
    if messages[-1].get("role") != "assistant":
        return f".messages[{len(messages) - 1}].role: the last message must be from the assistant: it is scored"
    if not isinstance(sample.get("metadata", {}), (dict, type(None))):
        return ".metadata: must be an object"
    return None
