"""Writes samples for a Lambda or an HTTP server, and reads the rows in its response."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from rft_api.model import Json
from rft_api.reward_protocol import match_rows
from rft_reward import replies
from rft_reward.duplicates import explain_duplicates
from rft_reward.handler_samples import HandlerForm, handler_sample
from rft_reward.remote.errors import RemoteError, shortened


async def read_rows(samples: Sequence[dict[str, Any]], body: bytes, request: bytes) -> list[Json]:
    """Read one row per sample from a response in the reward protocol. Samples without a valid score get an error.

    Args:
        samples: the samples.
        body: the response.
        request: the request, which a response may repeat.

    Raises:
        RemoteError: the response is not JSON, or has too many values.
    """
    if len(body) > replies.OFF_LOOP_BYTES:
        return await asyncio.to_thread(_read_rows, samples, body, request)
    return _read_rows(samples, body, request)


def _read_rows(samples: Sequence[dict[str, Any]], body: bytes, request: bytes) -> list[Json]:
    try:
        rows = match_rows([sample["id"] for sample in samples], replies.parse(body, len(samples), request))
    except replies.TooMuch as error:
        raise RemoteError(str(error)) from None
    except (ValueError, RecursionError):
        text = shortened(body[:4096].decode("utf-8", "replace"))
        raise RemoteError(f"the answer is not JSON that can be read: {text}") from None
    return explain_duplicates(samples, rows)


def write_samples(samples: Sequence[dict[str, Any]], form: HandlerForm, *, lift_metadata: bool) -> bytes:
    """Write samples as a JSON array, in the form of `rft_reward.handler_samples.handler_sample`.

    Raises:
        RemoteError: a sample nests too deeply.
    """
    try:
        return orjson.dumps([handler_sample(s, form, lift_metadata=lift_metadata) for s in samples])
    except TypeError as error:
        raise RemoteError(f"the sample cannot be written as JSON: {error}") from None
