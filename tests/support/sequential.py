"""A trainer that scores after generation and waits for the answers at once: what overlapping is compared with."""

from __future__ import annotations

import time
from typing import Any

from rft_trainer.grpo import RFTTrainer


class SequentialTrainer(RFTTrainer):
    """Asks for all rewards when all completions are there, and computes nothing meanwhile."""

    early = 0
    """Completions, of all such trainers, that were finished while others were still being generated."""

    def _send_finished(self, finished: dict[int, list[int]]) -> None:
        SequentialTrainer.early += len(finished)

    def _send(self, completions: Any) -> None:
        super()._send(completions)
        started = time.monotonic()
        answers = self._scoring.wait()
        self._waited = time.monotonic() - started
        self._scoring.wait = lambda: answers  # type: ignore[method-assign]

    def _generate(self, prompts: list[Any]) -> Any:
        result = super()._generate(prompts)
        self._seconds["generate"] -= self._waited
        self._seconds["reward"] += self._waited
        return result

    def _compute_ahead(self) -> None:
        return None
