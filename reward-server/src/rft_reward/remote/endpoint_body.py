"""The requests and answers of Azure OpenAI's endpoint graders: a sample with its data row, and a score."""

from __future__ import annotations

import json
import uuid

import orjson

from rft_api.model import Json
from rft_api.reward_protocol import match_rows
from rft_reward import replies
from rft_reward.graders.openai_values import Values
from rft_reward.remote.errors import RemoteError, shortened


def write_item(sample: Json) -> bytes:
    """Write the request for a sample, whose parts are those that graders of OpenAI know.

    Raises:
        RemoteError: the sample nests too deeply.
    """
    values = Values(sample)
    request = {"sample": values.sample, "item": values.item, "trace_id": f"trace_{uuid.uuid4()}"}
    try:
        return orjson.dumps(request)
    except TypeError:  # orjson is fast, and takes neither integers above 64 bits, as completions are, nor much nesting
        pass
    try:
        return json.dumps(request, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"the sample cannot be written as JSON: {error}") from None


def read_score(sample: Json, answer: bytes, request: bytes) -> Json:
    """Read the row of a sample from the answer to its request; without a score that can be used, it has an error.

    Raises:
        RemoteError: the answer is not JSON, has too many values, or has no score.
    """
    try:
        document = replies.parse(answer, 1, request)
    except replies.TooMuch as error:
        raise RemoteError(str(error)) from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or "score" not in document:
        text = shortened(answer[:4096].decode("utf-8", "replace"))
        raise RemoteError(f'the answer is no JSON object with a score, such as {{"score": 0.5}}: {text}')
    row = {"id": sample["id"], "aggregate_reward_score": document["score"]}
    return match_rows([sample["id"]], [row])[0]
