"""Reads the rows in the response of a Lambda or an HTTP server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson

from rft_api.reward_protocol import match_rows
from rft_reward.combine import Row
from rft_reward.remote.errors import RemoteError, shortened


def read_rows(ids: Sequence[str], body: bytes) -> list[Row]:
    """Read one row per id from a response in the reward protocol. Ids without a valid score get an error.

    Raises:
        RemoteError: the response is not JSON.
    """
    try:
        answer = _parse(body)
        return match_rows(ids, answer)
    except (ValueError, RecursionError):
        text = shortened(body[:4096].decode("utf-8", "replace"))
        raise RemoteError(f"the answer is not JSON that can be read: {text}") from None


def write_samples(samples: Sequence[dict[str, Any]]) -> bytes:
    """Write samples as a JSON array.

    Raises:
        RemoteError: a sample nests too deeply.
    """
    try:
        return orjson.dumps(list(samples))
    except TypeError as error:
        raise RemoteError(f"the sample cannot be written as JSON: {error}") from None


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)  # the checks that follow report NaN and large integers
