"""Limits what reward code answers, in workers and on other servers, before it is parsed; and parses it."""

from __future__ import annotations

import json
from typing import Any

import orjson

from rft_api.foreign.files import most_values

SAMPLE_BYTES = 64 << 10
"""Bytes of an answer for each sample: a score takes 100, and an explanation a few thousand."""
SAMPLE_VALUES = 1024
"""Values of an answer for each sample: 256 components with three fields."""
MAXIMUM_BYTES = 64 << 20
MAXIMUM_VALUES = 2_000_000
"""Largest number of values of an answer: each may have three bytes as text, and takes some 100 when it is parsed."""
OFF_LOOP_BYTES = 256 << 10
"""Size from which an answer is parsed in a thread: a smaller one takes a few milliseconds."""


class TooMuch(ValueError):
    """An answer has more values than it may have. The message is for the user."""


def maximum_bytes(samples: int, request_bytes: int) -> int:
    """Return the largest size of an answer to a batch. It may repeat the samples, as some handlers do."""
    return min(MAXIMUM_BYTES, SAMPLE_BYTES * (samples + 1) + 2 * request_bytes)


def too_large(samples: int, limit: int) -> str:
    """Return what to say about an answer that is larger than `maximum_bytes`."""
    return (
        f"the code returned more than {limit >> 10:,} KiB, the limit for a batch of {samples}: "
        f"{SAMPLE_BYTES >> 10} KiB a sample, and never more than {MAXIMUM_BYTES >> 20} MiB; make it return less"
    )


def parse(answer: bytes, samples: int, request: bytes) -> Any:
    """Return the JSON value of an answer to a batch.

    Raises:
        TooMuch: it has more values than the batch allows.
        ValueError, RecursionError: it is not JSON.
    """
    limit = min(MAXIMUM_VALUES, SAMPLE_VALUES * (samples + 1))
    if (values := most_values(answer)) > limit:
        limit = min(MAXIMUM_VALUES, limit + 2 * most_values(request))
        if values > limit:
            raise TooMuch(
                f"the code returned about {values:,} values, more than the {limit:,} for a batch of {samples}: "
                f"{SAMPLE_VALUES:,} a sample, and never more than {MAXIMUM_VALUES:,}; make it return less"
            )
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        return json.loads(answer)  # the checks that follow report NaN and large integers
