"""Requests to a chat model: within limits, repeated after transient failures, and counted in metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rft_reward.metrics import Metrics
from rft_reward.remote import retries
from rft_reward.remote.errors import RemoteError, TransientError
from rft_reward.remote.limits import Limiter, Use
from rft_reward.remote.measure import measured_request

Message = Mapping[str, Any]
"""A message in OpenAI's format, whose content is text."""

DEFAULT_SECONDS = 60.0
"""Time limit of a request without a deadline."""
_CHARACTERS_PER_TOKEN = 4
_STRUCTURED = "response_format"
_FAILURES = 2
"""Number of failures of structured requests after which plain text is requested."""


@dataclass(frozen=True)
class Completion:
    """The answer of a model."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    """Whether the answer ended at the token limit."""


class Refused(RemoteError):
    """The API has refused a request (HTTP 400). It may accept one with fewer fields."""


class Backend(Protocol):
    """An API of chat models."""

    async def ask(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, sampling: Mapping[str, Any], seconds: float
    ) -> Completion:
        """Send one request, without repeating it.

        Raises:
            TransientError: another request may succeed.
            Refused: the API refuses the request.
            RemoteError: the API will not answer.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class ChatModel:
    """A chat model of an API.

    Args:
        backend: the API.
        limiter: limits on the requests.
        metrics: metrics of the server, which count requests, tokens and seconds.
    """

    def __init__(self, backend: Backend, limiter: Limiter, metrics: Metrics):
        self._backend = backend
        self._limiter = limiter
        self._metrics = metrics
        self._left_out: frozenset[str] = frozenset()
        """Fields that the API has refused."""
        self._has_structured = False
        """Whether the API has answered a structured request."""

    async def complete(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None = None,
        deadline: float | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Ask the model for the answer to a conversation.

        Args:
            messages: the conversation.
            schema: JSON Schema of the answer. It is left out if the API does not support it, so the messages must
                state the form of the answer, too.
            deadline: time by which the answer must be there, by `time.monotonic`; by default in a minute.
            sampling: further fields with OpenAI's names, such as temperature, top_p, max_completion_tokens and seed.
                Fields that the API refuses are left out.

        Raises:
            RemoteError: there is no answer.
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
                # Some servers fail on structured requests instead of refusing them, but not if they have answered one.
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
                # The field that the refusal names, or else the one that most servers do not support.
                named = [name for name in kept if name in str(refusal)]
                left_out |= {named[0] if named else _STRUCTURED if _STRUCTURED in kept else min(kept)}
                continue
            self._left_out |= left_out
            return completion

    async def _try(
        self, messages: Sequence[Message], fields: Mapping[str, Any], seconds: float, use: Use
    ) -> Completion:
        sampling = {name: value for name, value in fields.items() if name != _STRUCTURED}
        with measured_request(self._metrics):
            completion = await self._backend.ask(messages, fields.get(_STRUCTURED), sampling, seconds)
        self._metrics.judge_tokens.labels("prompt").inc(completion.prompt_tokens)
        self._metrics.judge_tokens.labels("completion").inc(completion.completion_tokens)
        use.tokens = completion.prompt_tokens + completion.completion_tokens or use.tokens
        return completion

    async def close(self) -> None:
        """Close the connections."""
        await self._backend.close()


def count(value: Any) -> int:
    """Return a number of tokens from an API; 0 if the value is not a number."""
    return value if type(value) is int and 0 <= value < 1 << 40 else 0


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the body is not a JSON object, or nests too deeply.
    """
    try:
        parsed = json.loads(body)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError("it is not an object")
    return parsed
