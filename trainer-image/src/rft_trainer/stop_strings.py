"""Ends completions at stop strings, which are looked for in the text of the tokens, as vLLM does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from rft_api.exit_codes import ExitCode, RunError
from rft_api.sampling import Sampling


class StopStrings:
    """The stop strings of a run.

    A completion ends with the token that completes one of them. So its ids are what was sampled, and its text may have
    a few characters behind the stop string, if the token has them.

    Args:
        tokenizer: the model's tokenizer.
        texts: the stop strings.

    Raises:
        RunError: CONFIGURATION_INVALID for a tokenizer that is not one of the library tokenizers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]):
        backend = getattr(tokenizer, "_tokenizer", None)
        if not tokenizer.is_fast or backend is None:
            raise RunError(
                ExitCode.CONFIGURATION_INVALID,
                "spec.sampling.stop: the model's tokenizer cannot turn tokens into text one by one; add a "
                "tokenizer.json to the model, or remove stop",
            )
        self.texts = tuple(texts)
        self.backend: Any = backend
        # Some tokenizers leave a space out where a text begins, and a completion is not the beginning of a text.
        self.before = [tokenizer.eos_token_id]

    def search(self) -> StopSearch:
        """Return the search in a completion that begins."""
        return StopSearch(self)

    def end(self, ids: Sequence[int]) -> int | None:
        """Return the number of tokens up to the one that completes a stop string; None when none does."""
        search = self.search()
        return next((number for number, token in enumerate(ids, start=1) if search.add(token)), None)


class StopSearch:
    """The search for stop strings in one completion, token by token."""

    def __init__(self, stops: StopStrings):
        self._stops = stops
        self._stream = DecodeStream(ids=list(stops.before), skip_special_tokens=False)
        self._longest = max(map(len, stops.texts))
        self._end = ""

    def add(self, token: int) -> bool:
        """Return whether the next token completes a stop string."""
        text = self._end + self._decode(token)
        if any(stop in text for stop in self._stops.texts):
            return True
        # A stop string that is completed later begins in these characters.
        self._end = text[max(0, len(text) - self._longest + 1) :]
        return False

    def _decode(self, token: int) -> str:
        """Return the text that a token adds: none while it ends within a character."""
        try:
            return self._stream.step(self._stops.backend, token) or ""
        except Exception:  # of the type Exception: the text before has changed, as with bytes that are no character
            self._stream = DecodeStream(skip_special_tokens=False)
            return self._stream.step(self._stops.backend, token) or ""


class StopCriterion(StoppingCriteria):
    """Ends the rows of transformers' `generate` at stop strings.

    Args:
        stops: the stop strings.
        rows: number of completions.
    """

    def __init__(self, stops: StopStrings, rows: int):
        self._searches = [stops.search() for _ in range(rows)]
        self._length = 0
        self.lengths: list[int | None] = [None] * rows
        """The number of tokens of each completion that has ended at a stop string."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return which rows have ended."""
        self._length += 1
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.lengths[row] is None and self._searches[row].add(token):
                self.lengths[row] = self._length
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


def stop_strings(tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> StopStrings | None:
    """Return the stop strings of a run; None when it has none.

    Raises:
        RunError: as `StopStrings`.
    """
    return StopStrings(tokenizer, sampling.stop_strings) if sampling.stop_strings else None
