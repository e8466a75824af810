"""The completions of one optimizer step on this process: sent to the reward servers as they end, scored and timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from rft_trainer.data import Prompt
from rft_trainer.rewards import RewardClient, Rollout
from rft_trainer.rollouts import ScoredCompletion, add_shadows, scored

Decode = Callable[[list[list[int]]], list[str]]
"""Turns token ids of completions into their texts."""


class Step:
    """What one optimizer step samples on this process, what it earns, and the seconds that it takes.

    Args:
        prompts: the prompt of each completion, in the order of the batch.
        client: the reward servers.
        decode: turns token ids into texts.
        end_ids: tokens that end a completion.
    """

    def __init__(self, prompts: Sequence[Prompt], client: RewardClient, decode: Decode, end_ids: Sequence[int]):
        self.rows: list[ScoredCompletion] = []
        """The scored completions, once `rewards` has returned."""
        self.generate_seconds = 0.0
        self.reward_seconds = 0.0
        self.seconds = 0.0
        """Seconds of the whole step, once `end` was called."""
        self._prompts = prompts
        self._decode = decode
        self._end_ids = set(end_ids)
        self._scoring = client.begin()
        self._started = time.monotonic()

    def send_finished(self, completions: Mapping[int, list[int]]) -> None:
        """Requests rewards for completions that have ended, by their place, while others are still being sampled."""
        texts = self._decode(list(completions.values()))
        self._scoring.send_early(
            {place: Rollout(self._prompts[place], text) for place, text in zip(completions, texts, strict=True)}
        )

    def send(self, texts: Sequence[str]) -> None:
        """Requests rewards for the whole batch; those that were sent before are not sent again."""
        self._scoring.send([Rollout(prompt, text) for prompt, text in zip(self._prompts, texts, strict=True)])

    def rewards(self, texts: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        """Waits for the rewards, in the order of the batch; NaN for a completion that could not be scored.

        Raises:
            RunError: as `Scoring.wait`.
        """
        started = time.monotonic()
        scores = self._scoring.wait()
        self.reward_seconds += time.monotonic() - started
        self.rows = [
            scored(prompt, text, len(ids), not ids or ids[-1] not in self._end_ids, score)
            for prompt, text, ids, score in zip(self._prompts, texts, completion_ids, scores, strict=True)
        ]
        return [math.nan if row.reward is None else row.reward for row in self.rows]

    def set_advantages(self, advantages: Sequence[float]) -> None:
        """Notes what each completion is worth to the step."""
        for row, advantage in zip(self.rows, advantages, strict=True):
            row.advantage = advantage

    def end(self) -> None:
        """Adds the scores of the shadows, for which nothing has waited so far, and stops the clock."""
        started = time.monotonic()
        add_shadows(self.rows, self._scoring.wait_for_shadows())
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
