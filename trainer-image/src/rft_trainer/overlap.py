"""The completions of the next step, which vLLM servers sample while the trainer learns from those of this one.

They come from the policy before this step, so that they are one version older than the policy that learns from them.
Nothing is sampled ahead across a validation, and a checkpoint holds the version that samples at that moment, if any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rft_trainer.data import Prompt
from rft_trainer.failures import memory_for
from rft_trainer.rollout_servers.generation import Completion, Generation
from rft_trainer.step import Step


@dataclass(frozen=True)
class NextStep:
    """The completions of the next step on this process, while they are being sampled."""

    prompts: Sequence[Prompt]
    """The prompt of each completion."""
    prompt_ids: list[list[int]]
    """Token ids of each prompt, as they were sent to the servers."""
    step: Step
    generation: Generation

    def request_rewards(self) -> None:
        """Request the rewards of the completions that have ended; wait for nothing."""
        self.generation.poll(self.step.send_finished)

    def wait(self, prompt_ids: list[list[int]]) -> list[Completion]:
        """Wait for the completions; request the rewards of those that end before others. All ranks call it.

        Raises:
            Stopped, RuntimeError: as `RolloutClient.generate`.
        """
        assert prompt_ids == self.prompt_ids, "the step has other prompts than those that were sampled ahead"
        with memory_for("vLLM"):
            return self.generation.wait(self.step.send_finished)
