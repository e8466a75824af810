"""A trainer that scores after generation and waits for the rewards at once: what overlapping is compared with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rft_trainer.data import Prompt
from rft_trainer.grpo import RFTTrainer
from rft_trainer.step import Step


class SequentialStep(Step):
    """Requests all rewards when all completions are there, and waits for them."""

    early = 0
    """Completions, of all such steps, that had ended while others were still being sampled."""

    def send_finished(self, completions: Mapping[int, list[int]]) -> None:
        SequentialStep.early += len(completions)

    def send(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> None:
        super().send(texts, completion_ids)
        started = time.monotonic()
        scores = self._scoring.wait()
        seconds = time.monotonic() - started
        # The trainer counts all that happens until this returns as generation.
        self.generate_seconds -= seconds
        self.reward_seconds += seconds
        self._scoring.wait = lambda: scores  # type: ignore[method-assign]


class SequentialTrainer(RFTTrainer):
    """Computes nothing while rewards are being computed."""

    def _begin_step(self, prompts: Sequence[Prompt]) -> Step:
        samples = self._config.hyperparameters.samples_per_prompt
        return SequentialStep(prompts, self._client, self.processing_class, self._end_ids, samples)

    def compute_ahead(self) -> None:
        pass
