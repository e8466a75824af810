"""Tokens of a request, from what a server answers: a JSON document, or the chunks of a stream. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 1 << 40
"""Largest number of tokens of a request, whatever it asks for: sums over the ledger have to stay numbers."""
_MOST_CONTEXT = 1 << 24
"""Largest number of tokens of one prompt, and of one completion: no model has so long a context."""
_MOST_COMPLETIONS = 1 << 16
"""Completions of a stream whose tokens are remembered for as long as it lasts."""


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


@dataclass(frozen=True)
class Bounds:
    """What the usage of a request can be. A server that states more is wrong, or wants to spoil the sums of others."""

    prompts: int = 1
    """How many prompts the request has."""
    completions: int = 1
    """How many completions it asks for of each prompt (n)."""

    @property
    def most_completions(self) -> int:
        """How many completions the answer can have."""
        return min(self.prompts * self.completions, _MOST_COMPLETIONS)

    def allow(self, usage: Usage) -> bool:
        """Return whether the whole request can have used so much."""
        most_prompt = min(MOST_TOKENS, self.prompts * _MOST_CONTEXT)
        most_completion = min(MOST_TOKENS, self.prompts * self.completions * _MOST_CONTEXT)
        return usage.prompt_tokens < most_prompt and usage.completion_tokens < most_completion


def usage_of(document: Any) -> Usage | None:
    """Return the usage that an answer or a chunk states, or None when it states none.

    Chat, completions and embeddings count prompt_tokens and completion_tokens; responses count input_tokens and
    output_tokens. What is no number of tokens becomes MOST_TOKENS, which no `Bounds` allow.
    """
    usage = document.get("usage") if isinstance(document, dict) else None
    if not isinstance(usage, dict):
        return None
    names = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
    prompt, completion = (_count(usage.get(f"{name}_tokens")) for name in names)
    details = usage.get(f"{names[0]}_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(prompt, min(cached, prompt) if cached < MOST_TOKENS else 0, completion)


def _count(value: Any) -> int:
    if value is None:
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_TOKENS else MOST_TOKENS


class StreamTally:
    """Counts the tokens of a stream, chunk by chunk, so that they are known wherever the stream ends.

    Args:
        bounds: what the request can use. What a server states beyond it is not counted.
        prompt_estimate: number of tokens that the prompt may have, for a stream that ends before its server has stated
            any usage. Only streams of /v1/responses do so: their usage is in the last event.
    """

    def __init__(self, bounds: Bounds | None = None, prompt_estimate: int = 0):
        self._bounds = bounds or Bounds()
        self._most_completions = self._bounds.most_completions
        self._prompt_estimate = prompt_estimate
        self.is_doubtful = False
        """Whether the server has stated what the request cannot have used."""
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
            self.add_total(usage)
            return usage
        index = choices[0].get("index") if isinstance(choices, list) and isinstance(choices[0], dict) else 0
        self.add_delta(_count(index), usage)
        return usage

    def add_delta(self, index: int, usage: Usage | None) -> None:
        """Count a chunk of one completion.

        Args:
            index: the number of the completion.
            usage: the tokens so far that the chunk states.
        """
        self._deltas += 1
        if usage is None:
            return
        if (
            index < self._most_completions
            and usage.completion_tokens < _MOST_CONTEXT
            and usage.prompt_tokens < _MOST_CONTEXT
        ):
            self._latest[index] = usage
        else:
            self.is_doubtful = True

    def add_total(self, usage: Usage | None) -> None:
        """Count the usage that the server states of the whole request, if it does."""
        if usage is None:
            return
        if self._bounds.allow(usage):
            self._total = usage
        else:
            self.is_doubtful = True

    def add_event(self, event: dict[str, Any]) -> None:
        """Count an event of /v1/responses. The last one has the usage; those before it have a part of the text each."""
        usage = usage_of(event.get("response"))
        if usage is not None:
            self.add_total(usage)
        elif str(event.get("type", "")).endswith(".delta"):
            self._deltas += 1

    def usage(self) -> Usage:
        """Return the usage so far. A part of a text for which the server states none counts as one token."""
        if self._total is not None:
            return self._total
        if not self._latest:
            return Usage(self._prompt_estimate if self._deltas else 0, 0, self._deltas)
        # Completions of the same prompt state that prompt each. Completion i belongs to prompt i / n.
        prompts = {index // self._bounds.completions: usage.prompt_tokens for index, usage in self._latest.items()}
        return Usage(sum(prompts.values()), 0, sum(usage.completion_tokens for usage in self._latest.values()))
