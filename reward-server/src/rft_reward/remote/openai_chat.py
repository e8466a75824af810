"""Chat models of OpenAI-compatible APIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rft_reward.remote.chat import Completion, Message, Refused, count, parse_object
from rft_reward.remote.errors import RemoteError, TransientError
from rft_reward.remote.web import Web

_MAXIMUM_BYTES = 4 << 20
"""Largest answer: 100,000 tokens of text with a reasoning, each character as an escape."""


class OpenAIChat:
    """A model of an API at a base URL, such as https://api.openai.com/v1.

    Args:
        url: the base URL.
        name: name of the model there.
        token: bearer token, if the API needs one.
        certificates: CA certificates (PEM) for the server's certificate; None takes those of the system.
    """

    def __init__(self, url: str, name: str, token: str | None, certificates: str | None = None):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._name = name
        self._web = Web(f"{url.rstrip('/')}/chat/completions", headers, certificates)

    async def ask(
        self, messages: Sequence[Message], schema: dict[str, Any] | None, sampling: Mapping[str, Any], seconds: float
    ) -> Completion:
        """See `chat.Backend`."""
        request: dict[str, Any] = {"model": self._name, "messages": list(messages), **sampling}
        if schema is not None:
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        try:
            body = orjson.dumps(request)
        except TypeError as error:  # such as half a surrogate pair
            raise RemoteError(f"the sample cannot be written as JSON: {error}") from None
        status, answer = await self._web.post(body, seconds, _MAXIMUM_BYTES)
        if status in (400, 422):
            raise Refused(f"model {self._name} refused the request ({status}): {self._web.words(answer)}")
        if status != 200:
            raise RemoteError(f"model {self._name} answered {status}: {self._web.words(answer)}")
        return self._read(answer)

    def _read(self, answer: bytes) -> Completion:
        try:
            parsed = parse_object(answer)
            choice = parsed["choices"][0]
            content = choice["message"].get("content")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise TransientError(
                f"model {self._name} answered something that is no chat completion: {self._web.words(answer)}"
            ) from None
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        usage = parsed.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Completion(
            content if isinstance(content, str) else "",
            count(usage.get("prompt_tokens")),
            count(usage.get("completion_tokens")),
            cut=choice.get("finish_reason") == "length",
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()
