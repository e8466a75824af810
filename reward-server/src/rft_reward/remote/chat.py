"""A chat model that other parts ask: within limits, again when it fails for a moment, and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rft_reward.metrics import Metrics
from rft_reward.remote import retries
from rft_reward.remote.errors import OutOfTimeError, RemoteError, TransientError
from rft_reward.remote.limits import Limiter, Use

Message = Mapping[str, Any]
"""A message in OpenAI's format; the content is text."""

DEFAULT_SECONDS = 60.0
"""Time of a question without a deadline."""
_CHARACTERS_PER_TOKEN = 4
_STRUCTURED = "response_format"
_FAILURES = 2
"""Times that an API may fail on a structured request before it is asked for plain text."""


@dataclass(frozen=True)
class Completion:
    """A model's answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    """Whether the limit of tokens ended it."""


class Refused(RemoteError):
    """The API refused a request as it is (HTTP 400): it may take one with fewer fields."""


class Backend(Protocol):
    """An API that has chat models."""

    async def ask(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, sampling: Mapping[str, Any], seconds: float
    ) -> Completion:
        """One try.

        Raises:
            TransientError: when another may succeed.
            Refused: when the API refuses the request as it is.
            RemoteError: when it will not answer.
        """
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class ChatModel:
    """A chat model behind an API.

    Args:
        backend: the API.
        limiter: how fast it is asked.
        metrics: where requests, tokens and seconds are counted.
    """

    def __init__(self, backend: Backend, limiter: Limiter, metrics: Metrics):
        self._backend = backend
        self._limiter = limiter
        self._metrics = metrics
        self._left_out: frozenset[str] = frozenset()
        """Fields that the API has shown not to take."""
        self._has_structured = False
        """Whether it has answered a structured request."""

    async def complete(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None = None,
        deadline: float | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> Completion:
        """The model's answer to a conversation.

        Args:
            messages: the conversation.
            schema: JSON Schema of the answer. It is asked for where the API can; say it in the messages, too.
            deadline: when the time is up, by `time.monotonic`; in a minute when absent.
            sampling: further fields in OpenAI's names: temperature, top_p, max_completion_tokens, seed, ... Fields
                that the API refuses are left out; so is the schema where the API fails on it.

        Raises:
            RemoteError: when there is no answer.
        """
        if deadline is None:
            deadline = time.monotonic() + DEFAULT_SECONDS
        fields = {**(sampling or {}), **({} if schema is None else {_STRUCTURED: schema})}
        left_out = self._left_out & fields.keys()
        failures = 0

        async def attempt(kept: Mapping[str, Any], seconds: float, use: Use) -> Completion:
            nonlocal failures
            try:
                completion = await self._try(messages, kept, seconds, use)
            except TransientError as error:
                failures += error.failed
                # Some servers fail on what they do not know instead of refusing it. One that has done it before can.
                if failures >= _FAILURES and _STRUCTURED in kept and not self._has_structured:
                    raise Refused(_STRUCTURED) from error
                raise
            self._has_structured |= _STRUCTURED in kept
            return completion

        written = int((sampling or {}).get("max_completion_tokens") or 0)
        length = sum(len(str(message.get("content") or "")) for message in messages)
        while True:
            kept = {name: value for name, value in fields.items() if name not in left_out}
            try:
                completion = await retries.ask(
                    partial(attempt, kept),
                    self._limiter,
                    deadline,
                    length // _CHARACTERS_PER_TOKEN + min(written, 256),
                )
            except Refused as refusal:
                if not kept:
                    raise
                # The field that the refusal names; else the one that most servers lack.
                named = [name for name in kept if name in str(refusal)]
                left_out |= {named[0] if named else _STRUCTURED if _STRUCTURED in kept else min(kept)}
                continue
            self._left_out |= left_out
            return completion

    async def _try(
        self, messages: Sequence[Message], fields: Mapping[str, Any], seconds: float, use: Use
    ) -> Completion:
        sampling = {name: value for name, value in fields.items() if name != _STRUCTURED}
        started, outcome = time.perf_counter(), "timeout"  # unless it ends by itself
        try:
            completion = await self._backend.ask(messages, fields.get(_STRUCTURED), sampling, seconds)
            outcome = "answered"
        except TransientError:
            outcome = "retried"
            raise
        except RemoteError as error:
            outcome = "timeout" if isinstance(error, OutOfTimeError) else "refused"
            raise
        finally:
            self._metrics.judge_requests.labels(outcome).inc()
            self._metrics.judge_seconds.observe(time.perf_counter() - started)
        self._metrics.judge_tokens.labels("prompt").inc(completion.prompt_tokens)
        self._metrics.judge_tokens.labels("completion").inc(completion.completion_tokens)
        use.tokens = completion.prompt_tokens + completion.completion_tokens or use.tokens
        return completion

    async def close(self) -> None:
        """Closes the connections."""
        await self._backend.close()


def count(value: Any) -> int:
    """A number of tokens as an API says it, 0 if it is none."""
    return value if type(value) is int and 0 <= value < 1 << 40 else 0


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: when it is not one.
    """
    try:
        parsed = json.loads(body)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError("it is not an object")
    return parsed
