"""The completions of one optimizer step on this process, and the time that the step takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rft_trainer.batch import Batch
from rft_trainer.data import Prompt
from rft_trainer.rewards import RewardClient
from rft_trainer.stop_strings import StopStrings


class Step(Batch):
    """The completions, rewards and duration of one optimizer step; the arguments are those of `Batch`."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        client: RewardClient,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        samples_per_prompt: int,
        stops: StopStrings | None = None,
    ):
        super().__init__(prompts, client, tokenizer, end_ids, samples_per_prompt=samples_per_prompt, stops=stops)
        self.generate_seconds = 0.0
        self.reward_seconds = 0.0
        """Seconds of waiting for the scores of rewards and shadows."""
        self.seconds = 0.0
        """Seconds of the whole step; set by `end`."""
        self.trained_tokens = 0
        """Tokens of this process's completions that count in the loss."""
        self._started = time.monotonic()

    def start(self) -> None:
        """Start the clock again, if completions were sampled while the step before was learnt."""
        self._started = time.monotonic()

    def rewards(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """Wait for the rewards; return them in the order of the batch, NaN for a completion that could not be scored.

        Raises:
            RunError: as `Scoring.wait`.
        """
        started = time.monotonic()
        rows = self.wait(texts, completion_ids)
        self.reward_seconds += time.monotonic() - started
        return [math.nan if row.reward is None else row.reward for row in rows]

    def set_advantages(self, advantages: Sequence[float]) -> None:
        """Store the advantage of each completion."""
        for row, advantage in zip(self.rows, advantages, strict=True):
            row.advantage = advantage

    def end(self) -> None:
        """Wait for the scores of the shadows, which the update does not need, and stop the clock."""
        started = time.monotonic()
        self.add_shadows()
        now = time.monotonic()
        self.reward_seconds += now - started
        self.seconds = now - self._started

    @property
    def update_seconds(self) -> float:
        """Seconds of the step besides generation and waiting for rewards."""
        return max(0.0, self.seconds - self.generate_seconds - self.reward_seconds)

    @property
    def reward_request_seconds(self) -> float:
        """Seconds in which rewards were being computed."""
        return self._scoring.request_seconds
