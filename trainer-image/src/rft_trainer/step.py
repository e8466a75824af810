"""The completions of one optimizer step on this process, and the seconds that the step takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rft_trainer.batch import Batch
from rft_trainer.data import Prompt
from rft_trainer.rewards import RewardClient


class Step(Batch):
    """What one optimizer step samples, what it earns, and how long the step takes; arguments as for `Batch`."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        client: RewardClient,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
    ):
        super().__init__(prompts, client, tokenizer, end_ids)
        self.generate_seconds = 0.0
        self.reward_seconds = 0.0
        """Seconds of waiting for rewards and shadows."""
        self.seconds = 0.0
        """Seconds of the whole step, once `end` was called."""
        self._started = time.monotonic()

    def rewards(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """Waits for the rewards, in the order of the batch; NaN for a completion that could not be scored.

        Raises:
            RunError: as `Scoring.wait`.
        """
        started = time.monotonic()
        rows = self.wait(texts, completion_ids)
        self.reward_seconds += time.monotonic() - started
        return [math.nan if row.reward is None else row.reward for row in rows]

    def set_advantages(self, advantages: Sequence[float]) -> None:
        """Notes what each completion is worth to the step."""
        for row, advantage in zip(self.rows, advantages, strict=True):
            row.advantage = advantage

    def end(self) -> None:
        """Adds the scores of the shadows, for which nothing has waited so far, and stops the clock."""
        started = time.monotonic()
        self.add_shadows()
        now = time.monotonic()
        self.reward_seconds += now - started
        self.seconds = now - self._started

    @property
    def update_seconds(self) -> float:
        """Seconds of the step that were neither generation nor waiting for rewards."""
        return max(0.0, self.seconds - self.generate_seconds - self.reward_seconds)

    @property
    def reward_request_seconds(self) -> float:
        """Seconds in which rewards were being computed."""
        return self._scoring.request_seconds
