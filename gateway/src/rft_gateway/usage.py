"""Tokens of a request, from what a server answers: a JSON document, or the chunks of a stream. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MOST_TOKENS = 1 << 40
"""A server that states more in one answer is wrong, and the ledger's integers have 64 bits."""
_MOST_COMPLETIONS = 1 << 16
"""A stream with more is wrong: each is remembered for as long as it lasts."""


@dataclass(frozen=True)
class Usage:
    """The tokens of one request; of several, their sum."""

    prompt_tokens: int = 0
    """Tokens of the prompt, with those that the server had in its cache."""
    cached_tokens: int = 0
    """Tokens of the prompt that the server had in its cache, where it says so."""
    completion_tokens: int = 0
    """Tokens that the model has generated, of all completions of the request together."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )


def usage_of(document: Any) -> Usage | None:
    """Return the usage that an answer or a chunk states, or None when it states none.

    Chat, completions and embeddings count prompt_tokens and completion_tokens; responses count input_tokens and
    output_tokens.
    """
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return None
    names = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
    prompt, completion = (_count(usage.get(f"{name}_tokens")) for name in names)
    details = usage.get(f"{names[0]}_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, min(cached, prompt), completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else 0


class StreamTally:
    """Counts the tokens of a stream, chunk by chunk, so that they are known wherever the stream ends.

    Args:
        completions: how many completions the request asks for of each prompt (n).
        prompt_estimate: number of tokens that the prompt may have, for a stream that ends before its server has stated
            any usage. Only streams of /v1/responses do so: their usage is in the last event.
    """

    def __init__(self, completions: int = 1, prompt_estimate: int = 0):
        self._completions = max(1, completions)
        self._prompt_estimate = prompt_estimate
        self._total: Usage | None = None
        self._latest: dict[int, Usage] = {}
        self._deltas = 0

    @property
    def is_complete(self) -> bool:
        """Whether the server has stated the usage of the whole request."""
        return self._total is not None

    def add_chunk(self, chunk: dict[str, Any]) -> Usage | None:
        """Count a chunk of chat or completions, and return the usage that it states.

        With `continuous_usage_stats`, a chunk states the tokens so far of the one completion that it belongs to. The
        chunk with the usage of all of them belongs to none.
        """
        usage = usage_of(chunk)
        choices = chunk.get("choices")
        if not choices:
            self._total = usage or self._total
            return usage
        index = choices[0].get("index") if isinstance(choices, list) and isinstance(choices[0], dict) else 0
        self.add_delta(min(_count(index), _MOST_COMPLETIONS), usage)
        return usage

    def add_delta(self, index: int, usage: Usage | None) -> None:
        """Count a chunk of one completion.

        Args:
            index: the number of the completion.
            usage: the tokens so far that the chunk states.
        """
        self._deltas += 1
        if usage is not None:
            self._latest[index] = usage

    def add_event(self, event: dict[str, Any]) -> None:
        """Count an event of /v1/responses. The last one has the usage; those before it have a part of the text each."""
        usage = usage_of(event.get("response"))
        if usage is not None:
            self._total = usage
        elif str(event.get("type", "")).endswith(".delta"):
            self._deltas += 1

    def usage(self) -> Usage:
        """Return the usage so far. A part of a text for which the server states none counts as one token."""
        if self._total is not None:
            return self._total
        if not self._latest:
            return Usage(self._prompt_estimate if self._deltas else 0, 0, self._deltas)
        # Completions of the same prompt state that prompt each. Completion i belongs to prompt i / n.
        prompts = {index // self._completions: usage.prompt_tokens for index, usage in self._latest.items()}
        return Usage(sum(prompts.values()), 0, sum(usage.completion_tokens for usage in self._latest.values()))
