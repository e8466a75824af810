"""Records every optimizer step: its rollouts as a parquet file, its metrics, and the progress."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from rft_api.exit_codes import ExitCode, RunError
from rft_api.metrics import TrainMetrics
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer.component_limit import ComponentLimit
from rft_trainer.distributed import gather, rank
from rft_trainer.metrics_log import append_metrics, read_steps
from rft_trainer.progress import ProgressReporter
from rft_trainer.rewards import RewardClient
from rft_trainer.rollouts import (
    ScoredCompletion,
    component_means,
    mean_length,
    mean_reward,
    shadow_scores,
    source_means,
    write_rollouts,
)
from rft_trainer.step import Step

DIVERGED_STEPS = 3
"""The run stops after so many steps in a row whose loss or gradient norm is not finite."""
CLIPPED_RATIOS = "sampling/importance_sampling_ratio/clipped"
"""Name of the share of clipped importance ratios among TRL's metrics, which do not have it."""
RECENT_STEPS = 5
"""Number of recent steps whose mean duration is used for the time left."""


class Recorder:
    """Records each step, and stops a run that has diverged.

    Args:
        config: the run's configuration.
        prompts: training prompts of the whole run, all epochs together.
        client: the reward servers.
        components: the names of components that are recorded.
        reporter: where progress is published.
        total_steps: optimizer steps that the run makes.
    """

    def __init__(
        self,
        config: TrainerConfig,
        prompts: int,
        client: RewardClient,
        components: ComponentLimit,
        reporter: ProgressReporter,
        total_steps: int,
    ):
        self._folder = RunFolder(config.output)
        self._epochs_per_step = config.hyperparameters.batch_size * config.hyperparameters.epochs / prompts
        self._client = client
        self._reporter = reporter
        self._total_steps = total_steps
        self._components = components
        self._components_left_out = 0
        self._rows: list[ScoredCompletion] = []
        self._step_tokens = 0
        self._recent_seconds: list[float] = []
        self._previous_tokens = 0
        steps = read_steps(self._folder)
        self._trained_tokens = steps[-1].trained_tokens if steps else 0
        """Those of all starts up to the last step; None when the start that began the run has not counted them."""
        reporter.update(trained_tokens=self._trained_tokens)
        self._diverged_steps = 0

    def go_on(self, tokens: int) -> None:
        """Begin after the tokens that earlier starts of the run have counted, which are not those of a step here."""
        self._previous_tokens = tokens

    def record_rollouts(self, number: int, step: Step) -> None:
        """Gather the step's completions from all ranks, and write them on rank 0."""
        self._rows = [row for rows in gather(step.rows) for row in rows]
        self._components_left_out = self._components.apply(self._rows)
        self._step_tokens = sum(gather(step.trained_tokens))
        if rank() == 0:
            write_rollouts(self._folder.rollout(number), self._rows)

    def record_metrics(self, number: int, step: Step, logs: Mapping[str, float], gradient_norm: float | None) -> None:
        """Append the step's line to metrics.jsonl, and publish its metrics; `logs` are TRL's metrics of the step.

        Raises:
            RunError: DIVERGED when loss or gradient norm have not been finite for `DIVERGED_STEPS` steps.
        """
        self._stop_if_diverged(number, logs["loss"], gradient_norm)
        if self._trained_tokens is not None:
            self._trained_tokens += self._step_tokens
        rows = self._rows
        advantages = np.asarray([row.advantage for row in rows], dtype=np.float64)
        rewards = [row.reward for row in rows if row.reward is not None]
        metrics = TrainMetrics(
            step=number,
            epoch=number * self._epochs_per_step,
            loss=_finite(logs["loss"]),
            reward=mean_reward(rows),
            reward_std=float(np.std(rewards)) if rewards else None,
            components=component_means(rows),
            components_left_out=self._components_left_out,
            sources=source_means(rows),
            episode_length=mean_length(rows),
            gradient_norm=_finite(gradient_norm),
            advantage_mean=float(advantages.mean()),
            advantage_std=float(advantages.std()),
            advantage_abs_mean=float(np.abs(advantages).mean()),
            policy_entropy=_finite(logs.get("entropy")),
            kl_divergence=_finite(logs.get("kl")),
            importance_ratio_mean=_finite(logs.get("sampling/importance_sampling_ratio/mean")),
            importance_ratio_min=_finite(logs.get("sampling/importance_sampling_ratio/min")),
            importance_ratio_max=_finite(logs.get("sampling/importance_sampling_ratio/max")),
            importance_ratio_clipped=logs.get(CLIPPED_RATIOS),
            logprob_difference_mean=_finite(logs.get("sampling/sampling_logp_difference/mean")),
            logprob_difference_max=_finite(logs.get("sampling/sampling_logp_difference/max")),
            zero_variance_group_ratio=logs["frac_reward_zero_std"],
            clipped_completion_ratio=sum(row.clipped for row in rows) / len(rows),
            learning_rate=logs["learning_rate"],
            generate_seconds=step.generate_seconds,
            reward_seconds=step.reward_seconds,
            reward_request_seconds=step.reward_request_seconds,
            update_seconds=step.update_seconds,
            tokens=int(logs["num_tokens"]),
            trained_tokens=self._trained_tokens,
            rewards_failed=sum(row.error is not None for row in rows),
            shadows=shadow_scores(rows),
            ended_at=time.time(),
        )
        if rank() == 0:
            append_metrics(self._folder, metrics)
            self._reporter.record_step(metrics, metrics.tokens - self._previous_tokens)
            self._report_progress(metrics, step.seconds)
        self._previous_tokens = metrics.tokens

    def _report_progress(self, metrics: TrainMetrics, seconds: float) -> None:
        self._recent_seconds = [*self._recent_seconds[1 - RECENT_STEPS :], seconds]
        steps_left = self._total_steps - metrics.step
        self._reporter.update(
            phase="Training",
            message="",
            done=metrics.step,
            planned=self._total_steps,
            step=metrics.step,
            epoch=metrics.epoch,
            reward=metrics.reward,
            episode_length=metrics.episode_length,
            gradient_norm=metrics.gradient_norm,
            trained_tokens=metrics.trained_tokens,
            rewards_failed=self._client.failed_total,
            eta_seconds=steps_left * sum(self._recent_seconds) / len(self._recent_seconds),
        )

    def _stop_if_diverged(self, number: int, loss: float, norm: float | None) -> None:
        finite = math.isfinite(loss) and (norm is None or math.isfinite(norm))
        self._diverged_steps = 0 if finite else self._diverged_steps + 1
        if self._diverged_steps >= DIVERGED_STEPS:
            raise RunError(
                ExitCode.DIVERGED,
                f"loss or gradient norm was not finite for {DIVERGED_STEPS} steps up to step {number}; "
                f"lower spec.hyperparameters.learningRate",
            )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
