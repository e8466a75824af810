"""Asks a judge for a JSON object, and reads it from the reply, whatever the model has written around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from rft_reward.remote.chat import ChatModel
from rft_reward.remote.errors import RemoteError, shortened
from rft_reward.text import writable

_LONGEST_REASON = 4000
_LONGEST_REPLY = 100_000
_MOST_OPENINGS = 200

Verdict = TypeVar("Verdict")


async def ask_judge(
    model: ChatModel,
    messages: list[dict[str, str]],
    schema: dict[str, Any],
    sampling: dict[str, Any],
    deadline: float,
    read: Callable[[str], Verdict | None],
    ask_again: str,
    missing: str,
) -> Verdict:
    """Ask a judge, and ask it once more if its reply cannot be read.

    Args:
        model: the model that judges.
        messages: the messages to it.
        schema: the schema of the object that it is to write.
        sampling: the parameters of the request.
        deadline: when the verdict is needed.
        read: returns the verdict in a reply; None if there is none.
        ask_again: the message with which it is asked once more.
        missing: what a reply without a verdict lacks, for the message of the error, such as `no rating`.

    Raises:
        RemoteError: there is no verdict in the second reply either.
    """
    completion = await model.complete(messages, schema, deadline, sampling)
    verdict = read(completion.text)
    if verdict is None:
        wrong = {"role": "assistant", "content": completion.text or "(nothing)"}
        again = [*messages, wrong, {"role": "user", "content": ask_again}]
        completion = await model.complete(again, schema, deadline, sampling)
        verdict = read(completion.text)
    if verdict is None:
        tokens = sampling["max_completion_tokens"]
        cut_off = f", cut off after {tokens} tokens (judge.maxTokens)" if completion.cut else ""
        raise RemoteError(f"the judge's answer holds {missing}{cut_off}: {shortened(completion.text)}")
    return verdict


def objects_after_reasoning(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a reply, which may be in a code fence, after reasoning, or in other text.

    The reasoning may mention several verdicts. Only what comes after it counts.
    """
    reply = text.rpartition("</think>")[2]
    if "<think>" in reply:  # the reply was cut off in the reasoning
        return []
    return list(json_objects(reply[-_LONGEST_REPLY:]))


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, without those inside of others; at most 200 braces are looked at."""
    decoder, position = json.JSONDecoder(strict=False), 0
    for _ in range(_MOST_OPENINGS):
        position = text.find("{", position)
        if position < 0:
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
        else:
            yield value


def reason_of(verdict: Mapping[str, Any]) -> str:
    """Return the reason that an object states; empty if it states none."""
    reason = verdict.get("reason")
    return writable(reason)[:_LONGEST_REASON] if isinstance(reason, str) else ""
