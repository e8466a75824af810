"""Validation during training: scores completions of the validation prompts, to choose the best checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from rft_api.metrics import ShadowComparison, ValidationMetrics
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_api.training import EarlyStopping
from rft_trainer.component_limit import ComponentLimit
from rft_trainer.data import Prompt
from rft_trainer.distributed import rank
from rft_trainer.evaluation import Complete, evaluate, repeat
from rft_trainer.hacking import compare, judge_hacking
from rft_trainer.metrics_log import append_metrics, read_validations
from rft_trainer.progress import ProgressReporter
from rft_trainer.random_numbers import own_random_numbers
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import (
    ScoredCompletion,
    component_means,
    mean_length,
    mean_of_prompts,
    read_rollouts,
    shadow_scores,
    source_means,
    write_rollouts,
)

log = logging.getLogger(__name__)


class Validator:
    """Scores the policy on the validation prompts, and decides when training stops early.

    Args:
        config: the run's configuration.
        prompts: the validation prompts.
        completer: returns what completes prompts with the current policy, at the temperature of evaluations.
        rows_at_once: returns how many prompts each rank completes at once.
        tokenizer: the policy's tokenizer.
        end_ids: the EOS tokens.
        client: the reward servers.
        components: the names of components that are recorded.
        reporter: where progress is published.
        total_steps: optimizer steps planned.
    """

    def __init__(
        self,
        config: TrainerConfig,
        prompts: Sequence[Prompt],
        completer: Callable[[], Complete],
        rows_at_once: Callable[[], int],
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        client: RewardClient,
        components: ComponentLimit,
        reporter: ProgressReporter,
        total_steps: int,
    ):
        self._config = config
        self._folder = RunFolder(config.output)
        self._prompts = repeat(prompts, config.evaluation.samples_per_prompt)
        self._completer = completer
        self._rows_at_once = rows_at_once
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._client = client
        self._components = components
        self._reporter = reporter
        self._total_steps = total_steps
        self._history = read_validations(self._folder)
        self._before_training: list[ScoredCompletion] | None = None

    def is_due(self, step: int) -> bool:
        """Return whether the policy is validated after this step."""
        return step % self._config.hyperparameters.eval_interval == 0 or step == self._total_steps

    def validate(self, step: int) -> ValidationMetrics:
        """Complete the validation prompts, score the completions, and record the result; all ranks call it."""
        message = f"validating after step {step}" if step else "validating before training"
        self._reporter.update(message=message)
        started = time.monotonic()
        report = self._reporter.part(len(self._prompts), "samples")
        training, samples = self._config.hyperparameters, self._config.evaluation.samples_per_prompt
        with own_random_numbers(training.seed, "validation", step, rank()):
            rows = evaluate(
                self._prompts,
                self._completer(),
                self._tokenizer,
                self._client,
                self._end_ids,
                self._rows_at_once(),
                training.max_completion_tokens,
                report,
                samples_per_prompt=samples,
                sampling=self._config.sampling,
            )
        left_out = self._components.apply(rows)
        if step == 0:
            self._before_training = rows
        metrics = ValidationMetrics(
            step=step,
            reward=mean_of_prompts(rows, samples),
            components=component_means(rows),
            components_left_out=left_out,
            sources=source_means(rows, samples),
            episode_length=mean_length(rows),
            rewards_failed=sum(row.error is not None for row in rows),
            seconds=time.monotonic() - started,
            shadows=shadow_scores(rows),
            comparisons=self._compare_with_shadows(rows) if step > 0 and rank() == 0 else {},
            ended_at=time.time(),
        )
        self._history.append(metrics)
        if rank() == 0:
            write_rollouts(self._folder.validation(step), rows)
            append_metrics(self._folder, metrics)
            self._reporter.record_validation(metrics)
        self.report_hacking()
        return metrics

    def should_stop(self) -> bool:
        """Return whether training stops early after the validations so far."""
        return stop_early(self._history, self._config.early_stopping)

    def report_hacking(self) -> None:
        """Publish, on rank 0, whether the reward rises while a shadow falls."""
        verdict = judge_hacking(self._history, self._client.shadows) if rank() == 0 else None
        if verdict is None:
            return
        previous = self._reporter.progress.reward_hacking
        if verdict.suspected and not (previous and previous.suspected):
            log.warning("reward hacking suspected: %s", verdict.message)
        self._reporter.record_hacking(verdict)

    def _compare_with_shadows(self, rows: Sequence[ScoredCompletion]) -> dict[str, ShadowComparison]:
        """Return the comparison of reward and shadow with those before training, by shadow."""
        file = self._folder.validation(0)
        if self._before_training is None and file.exists():
            self._before_training = read_rollouts(file, self._prompts)
        if not self._before_training:
            return {}
        samples = self._config.evaluation.samples_per_prompt
        comparisons = {name: compare(self._before_training, rows, name, samples) for name in self._client.shadows}
        return {name: comparison for name, comparison in comparisons.items() if comparison is not None}


def stop_early(validations: Sequence[ValidationMetrics], rule: EarlyStopping | None) -> bool:
    """Return whether none of the last `patience` validations has exceeded the best earlier one by `minimum_gain`."""
    if rule is None:
        return False
    best, since = -math.inf, 0
    for validation in validations:
        if validation.step == 0:
            continue  # the validation before training is only for comparisons
        reward = -math.inf if validation.reward is None else validation.reward
        if reward > best + rule.minimum_gain or best == -math.inf:
            best, since = reward, 0
        else:
            since += 1
    return since >= rule.patience
