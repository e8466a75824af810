"""GRPO on TRL's trainer: rewards over HTTP, failed samples masked, every curve recorded, checkpoints that are whole."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather as gather_tensors
from datasets import Dataset as ArrowDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import pad

from rft_api.exit_codes import ExitCode, RunError
from rft_api.metrics import ShadowComparison, TrainMetrics, ValidationMetrics
from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_api.trainer_config import ComputeConfig, EarlyStoppingConfig, TrainerConfig
from rft_trainer import checkpoints, own_disks
from rft_trainer.algorithms import SETTINGS
from rft_trainer.arguments import common_arguments
from rft_trainer.data import Prompt
from rft_trainer.distributed import any_rank, gather, rank, wait_for_all
from rft_trainer.evaluation import complete, evaluate
from rft_trainer.failures import first_line, memory_for, write_failure
from rft_trainer.generation import Finished
from rft_trainer.hacking import compare, judge_hacking
from rft_trainer.logprobs import completion_logprobs
from rft_trainer.metrics_log import append_metrics, read_validations
from rft_trainer.modeling import end_token_ids
from rft_trainer.progress import ProgressReporter
from rft_trainer.rewards import RewardClient, Rollout
from rft_trainer.rollouts import (
    ScoredCompletion,
    add_shadows,
    component_means,
    mean_length,
    mean_reward,
    read_rollouts,
    scored,
    shadow_scores,
    source_means,
    write_rollouts,
)
from rft_trainer.vllm_requests import finished_requests

log = logging.getLogger(__name__)

SCHEDULES = {"Constant": "constant", "Linear": "linear", "Cosine": "cosine"}
DIVERGED_STEPS = 3
"""Steps in a row whose loss or gradient norm is not finite, after which the run stops."""
VLLM_MEMORY_SHARE = 0.3
"""Share of a GPU's memory for vLLM's weights and cache while it shares the GPU with the trainer (TRL's default)."""


class RFTTrainer(GRPOTrainer):
    """TRL's GRPO trainer, fed by the job's prompts and reward servers.

    Args:
        config: the run's configuration.
        model: the policy, possibly with an adapter.
        tokenizer: its tokenizer.
        prompts: training prompts in their order for the whole run.
        validation: prompts that choose the checkpoint.
        client: the reward servers.
        reporter: where progress is published.
        should_stop: polled after every step; when true on any rank, a checkpoint is saved and training ends.
        resumed: the checkpoint that training goes on from, if any.
    """

    def __init__(
        self,
        config: TrainerConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        validation: Sequence[Prompt],
        client: RewardClient,
        reporter: ProgressReporter,
        should_stop: Callable[[], bool],
        resumed: CheckpointInfo | None,
    ):
        self.run_config = config
        self._resumed = resumed
        self.folder = RunFolder(config.output)
        self.total_steps = planned_steps(config, len(prompts))
        self.stopped_early = False
        self.interrupted = False
        self._prompts = prompts
        self._validation = validation
        self._client = client
        self._reporter = reporter
        self._should_stop = should_stop
        self._chosen: list[Prompt] = []
        self._scoring = client.begin()
        self._tokens: tuple[list[list[int]], list[list[int]]] = ([], [])
        self._rows: list[ScoredCompletion] = []
        self._step_rows: list[ScoredCompletion] = []
        self._ahead: _Ahead | None = None
        self._validated: ValidationMetrics | None = None
        self._validations = read_validations(self.folder)
        self._before: list[ScoredCompletion] | None = None
        self._seconds = {"generate": 0.0, "reward": 0.0}
        self._step_started = 0.0
        self._recent_step_seconds: list[float] = []
        self._tokens_before = 0
        self._bad_steps = 0
        self._zero0_norm: float | None = None
        super().__init__(
            model=model,
            reward_funcs=_scored_over_http,
            args=build_arguments(config, self.total_steps),
            train_dataset=ArrowDataset.from_list([{"prompt": p.messages, "index": i} for i, p in enumerate(prompts)]),
            processing_class=tokenizer,
            callbacks=[_StepCallback(self)],
        )
        self.remove_callback(PrinterCallback)
        self._end_ids = end_token_ids(model, tokenizer)
        reporter.plan(self.total_steps, done=resumed.step if resumed else 0)

    def validate(self, step: int) -> ValidationMetrics:
        """Completes the validation prompts greedily, scores them, and records the result; the same on all ranks."""
        started = time.monotonic()
        rows = evaluate(self._validation, self._complete_greedily, self.processing_class, self._client, self._end_ids)
        if step == 0:
            self._before = rows
        metrics = ValidationMetrics(
            step=step,
            reward=mean_reward(rows),
            components=component_means(rows),
            sources=source_means(rows),
            episode_length=mean_length(rows),
            rewards_failed=sum(row.error is not None for row in rows),
            seconds=time.monotonic() - started,
            shadows=shadow_scores(rows),
            comparisons=self._compare(rows) if step > 0 and rank() == 0 else {},
        )
        self._validations.append(metrics)
        if rank() == 0:
            write_rollouts(self.folder.validation(step), rows)
            append_metrics(self.folder, metrics)
            self._reporter.record_validation(metrics)
            self._report_hacking()
        return metrics

    def _compare(self, rows: Sequence[ScoredCompletion]) -> dict[str, ShadowComparison]:
        """What has become of reward and shadows since before training, by shadow."""
        file = self.folder.validation(0)
        if self._before is None and file.exists():
            self._before = read_rollouts(file, self._validation)
        found = {name: compare(self._before or [], rows, name) for name in self._client.shadows if self._before}
        return {name: comparison for name, comparison in found.items() if comparison is not None}

    def _report_hacking(self) -> None:
        verdict = judge_hacking(self._validations, self._client.shadows)
        if verdict is None:
            return
        known = self._reporter.progress.reward_hacking
        if verdict.suspected and not (known and known.suspected):
            log.warning("reward hacking suspected: %s", verdict.message)
        self._reporter.record_hacking(verdict)

    def training_began(self) -> None:
        """Validates before the first step where shadows are to be compared with the reward.

        Makes up for the validation that a run that was told to stop left out, to save its checkpoint at once.
        """
        resumed = self._resumed
        if resumed is None and self._client.shadows:
            self._reporter.update(message="validating before training")
            self.validate(0)
        if resumed is not None and rank() == 0:
            self._report_hacking()
        if resumed is not None and resumed.validation_reward is None and self._due(resumed.step):
            reward = self.validate(resumed.step).reward
            if rank() == 0:
                checkpoints.write_marker(
                    self.folder.checkpoint(resumed.step), resumed.model_copy(update={"validation_reward": reward})
                )
            wait_for_all()

    def step_began(self) -> None:
        """Starts the step's clock."""
        self._step_started = time.monotonic()
        self._seconds = {"generate": 0.0, "reward": 0.0}

    def step_ended(self, step: int) -> tuple[bool, bool]:
        """Validates when it is time; returns whether to save a checkpoint and whether to stop training."""
        self.interrupted = any_rank(self._should_stop())
        due = self._due(step)
        if self._client.shadows:
            self._add_shadows(step)
        # The metrics of the step are logged after this; its seconds must not contain the validation's.
        self._step_seconds = time.monotonic() - self._step_started
        self._validated = None
        if due and not self.interrupted:
            self._reporter.update(message=f"validating after step {step}")
            self._validated = self.validate(step)
            self.stopped_early = step < self.total_steps and stop_early(
                self._validations, self.run_config.early_stopping
            )
        return due or self.interrupted, self.stopped_early or self.interrupted

    def _due(self, step: int) -> bool:
        return step % self.run_config.training.eval_interval == 0 or step == self.total_steps

    # Below: TRL's and transformers' hooks.

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._chosen = [self._prompts[row["index"]] for row in inputs]
        self._scoring = self._client.begin()
        output = super()._generate_and_score_completions(inputs)
        for row, advantage in zip(self._rows, output["advantages"].tolist(), strict=True):
            row.advantage = advantage
        self._record_rows(self.state.global_step + 1)
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.monotonic()
        result = super()._generate(prompts)
        # What is left goes out now; the answers are asked for after log-probabilities have been computed.
        self._send(result[3])
        self._tokens = result[0], result[1]
        self._seconds["generate"] += time.monotonic() - started
        return result

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.use_vllm:
            with memory_for("vLLM"), finished_requests(self.vllm_generation.llm, self._send_finished):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self.accelerator.device.type != "cpu":
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self._complete(prompt_ids, self.temperature, self._send_finished), None

    def _send_finished(self, finished: dict[int, list[int]]) -> None:
        """Has completions scored that are finished while others are still being generated."""
        texts = self.processing_class.batch_decode(list(finished.values()), skip_special_tokens=True)
        self._scoring.send_early(
            {index: Rollout(self._chosen[index], text) for index, text in zip(finished, texts, strict=True)}
        )

    def _send(self, completions: Any) -> None:
        """Has the other completions of the step scored, as TRL has read them."""
        texts = [completion[0]["content"] for completion in completions]
        self._scoring.send([Rollout(prompt, text) for prompt, text in zip(self._chosen, texts, strict=True)])

    def _complete_greedily(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        if not self.use_vllm:
            return self._complete(prompt_ids, temperature=0.0)
        engine = self.vllm_generation
        # TRL syncs when the step has moved on; these weights are newer than those of the step's own rollouts.
        engine.sync_weights()
        engine.temperature = 0.0
        try:
            _, completions, _, _ = engine.generate(prompts=prompt_ids, images=None, num_generations=1)
        finally:
            engine.temperature = self.temperature
        return completions

    def _complete(
        self, prompt_ids: list[list[int]], temperature: float, on_finished: Finished | None = None
    ) -> list[list[int]]:
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as model:
            if not prompt_ids:
                return []
            return complete(
                model,
                prompt_ids,
                max_new_tokens=self.max_completion_length,
                temperature=temperature,
                end_ids=self._end_ids,
                pad_id=self.processing_class.pad_token_id,
                on_finished=on_finished,
            )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        self._ahead = self._compute_ahead()
        started = time.monotonic()
        scores = self._scoring.wait()
        self._seconds["reward"] += time.monotonic() - started
        self._rows = [
            scored(prompt, completion[0]["content"], len(ids), not ids or ids[-1] not in self._end_ids, score)
            for prompt, completion, ids, score in zip(
                self._chosen, completions, completion_ids_list, scores, strict=True
            )
        ]
        # TRL takes NaN for "not scorable": such a sample is left out of its group's mean, and its advantage is 0.
        rewards = [math.nan if row.reward is None else row.reward for row in self._rows]
        return gather_tensors(torch.tensor(rewards, dtype=torch.float32, device=self.accelerator.device)[:, None])

    def _compute_ahead(self) -> _Ahead | None:
        """The forward pass of the step's first micro-batch, which needs no rewards, while they are being computed."""
        prompt_ids, completion_ids = ([torch.tensor(ids) for ids in part] for part in self._tokens)
        prompts, prompt_mask, completions, completion_mask = (
            pad(rows, padding_value=value, padding_side=side).to(self.accelerator.device)
            for rows, value, side in (
                (prompt_ids, self.processing_class.pad_token_id, "left"),
                ([torch.ones_like(ids) for ids in prompt_ids], 0, "left"),
                (completion_ids, self.processing_class.pad_token_id, "right"),
                ([torch.ones_like(ids) for ids in completion_ids], 0, "right"),
            )
        )
        # TRL shuffles the completions with the next random numbers before it takes the first of them.
        state = torch.get_rng_state()
        first = torch.randperm(len(prompt_ids))[: self.args.per_device_train_batch_size]
        torch.set_rng_state(state)
        input_ids = torch.cat([prompts, completions], dim=1)[first]
        attention_mask = torch.cat([prompt_mask, completion_mask], dim=1)[first]
        with self.compute_loss_context_manager():
            result = self._get_per_token_logps_and_entropies(
                self.model_wrapped,
                input_ids,
                attention_mask,
                completions.shape[1],
                compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )
        return _Ahead(input_ids, attention_mask, result)

    def _record_rows(self, step: int) -> None:
        self._step_rows = [row for part in gather(self._rows) for row in part]
        if rank() == 0:
            write_rollouts(self.folder.rollout(step), self._step_rows)

    def _add_shadows(self, step: int) -> None:
        """Adds what the shadows gave, for which nothing has waited so far, to the step's rollouts."""
        started = time.monotonic()
        add_shadows(self._rows, self._scoring.wait_for_shadows())
        self._record_rows(step)
        self._seconds["reward"] += time.monotonic() - started

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.is_of(input_ids, attention_mask):
            return ahead.result
        if self.accelerator.device.type != "cpu" or args or kwargs.get("compute_aux_loss"):
            # On GPUs TRL's fused kernel scores completion tokens only, and does it faster.
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        logps, entropies = completion_logprobs(
            model,
            input_ids[:, :-logits_to_keep],
            attention_mask[:, :-logits_to_keep],
            input_ids[:, -logits_to_keep:],
            attention_mask[:, -logits_to_keep:],
            self.temperature,
            bool(kwargs.get("compute_entropy")),
        )
        return logps, entropies, None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer; at ZeRO stage 0 it also clips, because DeepSpeed would clip without telling the norm."""
        # transformers calls this once more than it creates an optimizer.
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if created and _clips_itself(self.run_config.compute):
            optimizer.register_step_pre_hook(self._clip_at_zero0)
        return optimizer

    def _clip_at_zero0(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.run_config.training.maximum_gradient_norm)
        self._zero0_norm = norm.item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Records a step's metrics; called by transformers after every step, and once at the end with totals."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        norm = logs.get("grad_norm", self._zero0_norm)
        self._stop_if_diverged(logs["loss"], norm)
        rows = self._step_rows
        advantages = np.asarray([row.advantage for row in rows], dtype=np.float64)
        rewards = [row.reward for row in rows if row.reward is not None]
        metrics = TrainMetrics(
            step=self.state.global_step,
            epoch=self.state.global_step * self.run_config.training.batch_size / self._prompts_per_epoch,
            loss=_finite(logs["loss"]),
            reward=mean_reward(rows),
            reward_std=float(np.std(rewards)) if rewards else None,
            components=component_means(rows),
            sources=source_means(rows),
            episode_length=mean_length(rows),
            gradient_norm=_finite(norm),
            advantage_mean=float(advantages.mean()),
            advantage_std=float(advantages.std()),
            advantage_abs_mean=float(np.abs(advantages).mean()),
            policy_entropy=_finite(logs.get("entropy")),
            kl_divergence=_finite(logs.get("kl")),
            zero_variance_group_ratio=logs["frac_reward_zero_std"],
            clipped_completion_ratio=sum(row.clipped for row in rows) / len(rows),
            learning_rate=logs["learning_rate"],
            generate_seconds=self._seconds["generate"],
            reward_seconds=self._seconds["reward"],
            reward_request_seconds=self._scoring.request_seconds,
            update_seconds=max(0.0, self._step_seconds - sum(self._seconds.values())),
            tokens=int(logs["num_tokens"]),
            rewards_failed=sum(row.error is not None for row in rows),
            shadows=shadow_scores(rows),
        )
        if rank() == 0:
            append_metrics(self.folder, metrics)
            self._reporter.record_step(metrics, metrics.tokens - self._tokens_before)
            self._report_progress(metrics)
        self._tokens_before = metrics.tokens

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        info = CheckpointInfo(step=step, validation_reward=self._validated.reward if self._validated else None)
        self._reporter.update(message=f"saving checkpoint step-{step}")
        written = self.folder.checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        try:
            super()._save_checkpoint(model, trial)
            wait_for_all()
            own_disks.collect(written)
            if rank() == 0:
                checkpoints.complete(self.folder, written, info)
                self._reporter.record_checkpoint()
        except Exception as error:
            advice = write_failure(error, self.folder.checkpoints)
            if rank() == 0:
                with contextlib.suppress(OSError):
                    checkpoints.remove_torn(self.folder)
            if advice is None:
                raise
            since = "it goes on from the last complete checkpoint"
            if own_disks.on_first_machine():
                last = checkpoints.resume_point(self.folder)
                since = f"it goes on from step {last.step}" if last else "it starts from the beginning"
            raise RunError(
                ExitCode.OUTPUT_FAILED,
                f"checkpoint step-{step} could not be written to {self.folder.checkpoints}: {first_line(error)}: "
                f"{advice} and start again: {since}",
            ) from error
        wait_for_all()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: a run's description is its summary and provenance."""

    @property
    def _prompts_per_epoch(self) -> float:
        return len(self._prompts) / self.run_config.training.epochs

    def _report_progress(self, metrics: TrainMetrics) -> None:
        self._recent_step_seconds = [*self._recent_step_seconds[-4:], self._step_seconds]
        left = self.total_steps - metrics.step
        self._reporter.update(
            phase="Training",
            message="",
            done=metrics.step,
            planned=self.total_steps,
            step=metrics.step,
            epoch=metrics.epoch,
            reward=metrics.reward,
            episode_length=metrics.episode_length,
            gradient_norm=metrics.gradient_norm,
            rewards_failed=self._client.failed_total,
            eta_seconds=left * sum(self._recent_step_seconds) / len(self._recent_step_seconds),
        )

    def _stop_if_diverged(self, loss: float, norm: float | None) -> None:
        bad = not math.isfinite(loss) or (norm is not None and not math.isfinite(norm))
        self._bad_steps = self._bad_steps + 1 if bad else 0
        if self._bad_steps >= DIVERGED_STEPS:
            raise RunError(
                ExitCode.DIVERGED,
                f"loss or gradient norm was not finite for {DIVERGED_STEPS} steps up to step {self.state.global_step}; "
                f"lower spec.hyperparameters.learningRate",
            )


@dataclass(frozen=True)
class _Ahead:
    """A forward pass before its turn: log-probabilities and entropies, as TRL's trainer computes them."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    result: Any

    def is_of(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> bool:
        """Whether it is that of these inputs."""
        return torch.equal(self.input_ids, input_ids) and torch.equal(self.attention_mask, attention_mask)


class _StepCallback(TrainerCallback):
    """Hands the loop's events to the trainer."""

    def __init__(self, trainer: RFTTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.training_began()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.step_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        save, stop = self._trainer.step_ended(state.global_step)
        control.should_save = control.should_save or save
        control.should_training_stop = control.should_training_stop or stop


def planned_steps(config: TrainerConfig, prompts: int) -> int:
    """Optimizer steps of a run over so many prompts (all epochs together).

    Raises:
        RunError: DATA_INVALID when there are too few prompts for one step.
    """
    steps = prompts // config.training.batch_size
    if steps == 0:
        raise RunError(
            ExitCode.DATA_INVALID,
            f"data.train has {prompts} prompts for all epochs, fewer than one step needs: lower "
            f"spec.hyperparameters.batchSize ({config.training.batch_size}) or add prompts",
        )
    return min(steps, config.training.max_steps or steps)


def stop_early(validations: Sequence[ValidationMetrics], rule: EarlyStoppingConfig | None) -> bool:
    """Whether the last `patience` validations all failed to exceed the best before them by `minimum_gain`."""
    if rule is None:
        return False
    best, since = -math.inf, 0
    for validation in validations:
        if validation.step == 0:
            continue  # of the model before training, there only for comparison
        reward = -math.inf if validation.reward is None else validation.reward
        if reward > best + rule.minimum_gain or best == -math.inf:
            best, since = reward, 0
        else:
            since += 1
    return since >= rule.patience


def build_arguments(config: TrainerConfig, total_steps: int) -> GRPOConfig:
    """TRL's arguments for a run."""
    training, compute = config.training, config.compute
    share = training.batch_size * training.samples_per_prompt // compute.world_size
    return GRPOConfig(
        output_dir=str(RunFolder(config.output).checkpoints),
        max_steps=total_steps,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=share // training.micro_batch_size,
        num_generations=training.samples_per_prompt,
        max_completion_length=training.max_completion_tokens,
        temperature=training.temperature,
        beta=training.kl_coefficient,
        learning_rate=training.learning_rate,
        lr_scheduler_type=SCHEDULES[training.learning_rate_schedule],
        warmup_steps=0,
        max_grad_norm=0.0 if _clips_itself(compute) else training.maximum_gradient_norm,
        shuffle_dataset=False,
        use_vllm=compute.rollout_engine == "vLLM",
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=VLLM_MEMORY_SHARE,
        vllm_max_model_length=training.max_prompt_tokens + training.max_completion_tokens,
        **SETTINGS[training.algorithm],
        **common_arguments(config),
    )


def _clips_itself(compute: ComputeConfig) -> bool:
    """Whether the trainer clips gradients in place of DeepSpeed, see `RFTTrainer.create_optimizer`."""
    return compute.deepspeed is not None and compute.deepspeed.zero_stage == 0


def _scored_over_http(**kwargs: Any) -> list[float]:
    """Stands for the reward servers in TRL's list of reward functions; `_calculate_rewards` calls them instead."""
    raise AssertionError("RFTTrainer computes rewards itself")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
