"""Completes and scores prompts with a policy that is not being trained: baseline, preflight and final evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rft_api.sampling import Sampling
from rft_trainer.data import Prompt
from rft_trainer.engines import Engine, Policy
from rft_trainer.evaluation import evaluate
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import ScoredCompletion


@dataclass(frozen=True)
class Evaluator:
    """Evaluates policies with one engine and the job's reward servers; all ranks call it together."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    end_ids: list[int]
    """The EOS tokens."""
    client: RewardClient
    max_completion_tokens: int
    sampling: Sampling
    """What the chat template gets, and the stop strings."""
    report: Callable[[int], None]
    """Called with the number of prompts that have been completed."""

    def evaluate(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        temperature: float,
        with_shadows: bool = True,
        samples_per_prompt: int = 1,
    ) -> list[ScoredCompletion]:
        """Return the scored completions; see `rft_trainer.evaluation.evaluate`."""
        return evaluate(
            prompts,
            self.engine.completer(policy, temperature),
            self.tokenizer,
            self.client,
            self.end_ids,
            self.engine.rows_at_once(policy),
            self.max_completion_tokens,
            self.report,
            with_shadows,
            samples_per_prompt,
            self.sampling,
        )
