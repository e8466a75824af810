"""GRPO with TRL's trainer, whose hooks generate, score, record and validate as the run's configuration says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather as gather_tensors
from datasets import Dataset as ArrowDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl.models.utils import unwrap_model_for_generation

from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_trainer import checkpoints
from rft_trainer.arguments import build_arguments, clips_gradients, planned_steps
from rft_trainer.checkpoint_writing import complete_checkpoint
from rft_trainer.component_limit import ComponentLimit, recorded_names
from rft_trainer.data import Prompt
from rft_trainer.distributed import any_rank, gather, independent_passes, rank, wait_for_all
from rft_trainer.engines import VLLM, InProcess, Policy
from rft_trainer.evaluation import Complete, Decoding, complete
from rft_trainer.frozen_states import FrozenStates
from rft_trainer.generation import Finished
from rft_trainer.importance_ratios import clipped_share
from rft_trainer.inference import without_dropout
from rft_trainer.modeling import end_token_ids
from rft_trainer.overlap import NextStep
from rft_trainer.progress import ProgressReporter
from rft_trainer.recorder import CLIPPED_RATIOS, Recorder
from rft_trainer.rewards import RewardClient
from rft_trainer.rollout_servers.generation import Completion, Stopped
from rft_trainer.step import Step
from rft_trainer.step_callback import StepCallback
from rft_trainer.stop_strings import stop_strings
from rft_trainer.update import PackedGRPOTrainer
from rft_trainer.validator import Validator

log = logging.getLogger(__name__)


class RFTTrainer(PackedGRPOTrainer):
    """TRL's GRPO trainer with the packed update, fed by the job's prompts and reward servers.

    Methods of TRL and transformers are overridden only where the run needs another behavior; each docstring says which.

    Args:
        config: the run's configuration.
        model: the policy, possibly with an adapter.
        tokenizer: its tokenizer.
        prompts: training prompts in their order for the whole run.
        validation: prompts that choose the checkpoint.
        client: the reward servers.
        engine: what completes prompts.
        reporter: where progress is published.
        should_stop: polled after every step, and by servers' completions; when true on any rank, a checkpoint is saved
            and training ends.
        checkpoint: the checkpoint that training resumes from, if any.
    """

    def __init__(
        self,
        config: TrainerConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        validation: Sequence[Prompt],
        client: RewardClient,
        engine: InProcess | VLLM,
        reporter: ProgressReporter,
        should_stop: Callable[[], bool],
        checkpoint: CheckpointInfo | None,
    ):
        self.stopped_early = False
        self.interrupted = False
        self._config = config
        self._folder = RunFolder(config.output)
        self._total_steps = planned_steps(config, len(prompts))
        self._prompts = prompts
        self._client = client
        self._engine = engine
        self._reporter = reporter
        self._should_stop = should_stop
        self._checkpoint = checkpoint
        self.tokens_per_micro_batch = config.hyperparameters.effective_tokens_per_micro_batch
        self._resumable_step = checkpoint.step if checkpoint else 0
        self._validation_reward: float | None = None
        self._gradient_norm: float | None = None
        self._rewards = torch.empty(0)
        super().__init__(
            model=model,
            reward_funcs=_scored_over_http,
            args=build_arguments(config, self._total_steps),
            train_dataset=ArrowDataset.from_list([{"prompt": p.messages, "index": i} for i, p in enumerate(prompts)]),
            processing_class=tokenizer,
            callbacks=[StepCallback(self.training_began, self.step_ended)],
        )
        self.remove_callback(PrinterCallback)
        # With it TRL computes importance ratios from the log-probabilities that `_generate_single_turn` returns.
        self.use_vllm = isinstance(engine, VLLM)
        if self.frozen_states.layers and not self.use_vllm and rank() == 0:
            log.info("frozen layers whose output the update takes from generation: %d", self.frozen_states.layers)
        self._end_ids = end_token_ids(model, tokenizer)
        self._stops = stop_strings(tokenizer, config.sampling)
        self._rollouts = self._begin_step([])
        self._next_rows: list[dict[str, Any]] = []
        self._next_step: NextStep | None = None
        components = ComponentLimit(recorded_names(self._folder))
        self._recorder = Recorder(config, len(prompts), client, components, reporter, self._total_steps)
        self._validator = Validator(
            config,
            validation,
            self._validation_completer,
            partial(engine.rows_at_once, Policy("training", None, lambda: model)),
            tokenizer,
            self._end_ids,
            client,
            components,
            reporter,
            self._total_steps,
        )
        reporter.plan(self._total_steps, completed=checkpoint.step if checkpoint else 0)

    def training_began(self) -> None:
        """Validate before the first step if the run has shadows, so that later validations can be compared with it.

        A resumed run instead catches up on the validation that the interrupted run has skipped to save its checkpoint
        at once, which may have been its last one.
        """
        self._recorder.go_on(self.state.num_input_tokens_seen)
        checkpoint = self._checkpoint
        if checkpoint is None:
            if self._client.shadows:
                self._validator.validate(0)
            return
        self._validator.report_hacking()
        if checkpoint.validation_reward is None and self._validator.is_due(checkpoint.step):
            reward = self._validator.validate(checkpoint.step).reward
            if rank() == 0:
                checkpoints.write_marker(
                    self._folder.checkpoint(checkpoint.step),
                    checkpoint.model_copy(update={"validation_reward": reward}),
                )
            wait_for_all()
            self.stopped_early = checkpoint.step < self._total_steps and self._validator.should_stop()
            if self.stopped_early or checkpoint.step == self._total_steps:
                raise _NothingLeft

    def step_ended(self, number: int) -> tuple[bool, bool]:
        """Record the step, and validate if it is due; return whether to save a checkpoint and whether to stop.

        Where checkpoints have an interval of their own, one between two of them holds only the weights. It is saved
        after a validation that is among the best.
        """
        self.interrupted = any_rank(self._should_stop())
        self._rollouts.end()
        if self._next_step is not None:
            self._next_step.request_rewards()
            if self.interrupted:
                self._next_step.generation.cancel()
        self._recorder.record_rollouts(number, self._rollouts)
        is_due = self._validator.is_due(number)
        self._validation_reward = None
        if is_due and not self.interrupted:
            try:
                self._validation_reward = self._validator.validate(number).reward
                self.stopped_early = number < self._total_steps and self._validator.should_stop()
            except Stopped:
                self.interrupted = True
        interval, stops = self._config.checkpoints.interval, self.stopped_early or self.interrupted
        if stops or number == self._total_steps or (number % interval == 0 if interval else is_due):
            self.args.save_only_model = False
            return True, stops
        self.args.save_only_model = True
        return is_due and self._is_among_best(), stops

    def _is_among_best(self) -> bool:
        """Return whether the last validation is among the best; every rank gets the answer of the first machine."""
        kept = checkpoints.complete_checkpoints(self._folder) if rank() == 0 else []
        return gather(checkpoints.is_among_best(kept, self._validation_reward))[0]

    def _begin_step(self, prompts: Sequence[Prompt]) -> Step:
        samples = self._config.hyperparameters.samples_per_prompt
        return Step(prompts, self._client, self.processing_class, self._end_ids, samples, self._stops)

    # The methods below override those of TRL and transformers.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; where the run is to stop while completions are sampled, leave them and save the step before."""
        try:
            return super().train(*args, **kwargs)
        except _NothingLeft:
            return None
        except Stopped:
            self.interrupted = True
            if self.state.global_step > self._resumable_step:
                self.args.save_only_model = False
                self._save_checkpoint(self.model, None)
            return None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Keep the completions and advantages of the step, of which TRL logs only means."""
        prompts = [self._prompts[row["index"]] for row in inputs]
        if self._next_step is None:
            self._rollouts = self._begin_step(prompts)
        else:
            assert self._next_step.prompts == prompts, "the step has other prompts than those that were sampled ahead"
            self._rollouts = self._next_step.step
            self._rollouts.start()
        self._next_rows = []
        if self._samples_ahead(self.state.global_step):
            of_step = self._config.hyperparameters.batch_size
            self._next_rows = [self.train_dataset[row["index"] + of_step] for row in inputs]
        output = super()._generate_and_score_completions(inputs)
        self.learns_nothing = self.mask_truncated_completions and not any_rank(bool(output["completion_mask"].any()))
        if self.learns_nothing and rank() == 0:
            log.warning(
                "step %d changes no weights: all of its completions were truncated, and "
                "spec.hyperparameters.maskTruncatedCompletions leaves them out; raise maxCompletionTokens",
                self.state.global_step + 1,
            )
        if self._config.tuning.effective_dropout:
            # The update is the only one from these completions, so the ratio of the policy to itself is 1. With masks
            # of its own in each pass, it would be far enough from 1 for the narrow clipping range of GSPO.
            output.pop("old_per_token_logps", None)
        if self.use_vllm:
            mode, cap = self.vllm_importance_sampling_mode, self.vllm_importance_sampling_clip_max
            share = clipped_share(output["importance_sampling_ratio"], output["completion_mask"], mode, cap)
            self._metrics["train"][CLIPPED_RATIOS].append(share)
        if self.scale_rewards == "batch":
            self.record_equal_rewards(self._rewards)
        self._rollouts.set_advantages(output["advantages"].tolist())
        self._rollouts.trained_tokens = int(output["completion_mask"].sum())
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        """Request the rewards of the completions; `_calculate_rewards` waits for them later."""
        started = time.monotonic()
        result = super()._generate(prompts)
        self._rollouts.send([completion[0]["content"] for completion in result[3]], result[1])
        self.plan_passes(result[0], result[1])
        self._rollouts.generate_seconds += time.monotonic() - started
        return result

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Sample from vLLM, or with our own sampler: on CPUs, and for stop strings, which TRL does not have.

        Rewards are requested while others are being sampled.
        """
        if isinstance(self._engine, VLLM):
            completions = self._sample(self._engine, prompt_ids)
            self._next_step = self._sample_ahead(self._engine) if self._next_rows else None
            return [each.token_ids for each in completions], [each.logprobs for each in completions]
        if self.accelerator.device.type != "cpu" and self._stops is None:
            with without_dropout(self.model):
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self._complete(prompt_ids, self.temperature, self._rollouts.send_finished, self.frozen_states), None

    def _sample(self, engine: VLLM, prompt_ids: list[list[int]]) -> list[Completion]:
        """Return the completions of the step, which may have been sampled ahead."""
        if self._next_step is not None:
            return self._next_step.wait(prompt_ids)
        step = self.state.global_step
        sampler = checkpoints.sampler(self._folder.checkpoint(step))
        if self._checkpoint is not None and self._checkpoint.step == step and sampler.is_dir():
            # The run was interrupted while these completions were sampled ahead.
            engine.load_version(sampler, step - 1)
        else:
            self._sync(engine)
        return engine.sample(prompt_ids, step, self.temperature, self._rollouts.send_finished)

    def _samples_ahead(self, step: int) -> bool:
        """Return whether the completions of the next step are sampled while this one is learnt."""
        return self._config.compute.rollouts.overlap > 0 and not self._validator.is_due(step + 1)

    def _sample_ahead(self, engine: VLLM) -> NextStep:
        """Begin to sample the completions of the next step from the policy before this one; all ranks call it."""
        self._sync(engine)
        prompts = [self._prompts[row["index"]] for row in self._next_rows]
        prompt_ids = self._tokenize_prompts([row["prompt"] for row in self._next_rows])[0]
        generation = engine.begin_sampling(prompt_ids, self.state.global_step + 1, self.temperature)
        return NextStep(prompts, prompt_ids, self._begin_step(prompts), generation)

    def _validation_completer(self) -> Complete:
        temperature = self._config.evaluation.temperature
        if isinstance(self._engine, VLLM):
            self._sync(self._engine)
            return self._engine.current_completer(temperature)
        return lambda prompt_ids, on_finished: self._complete(prompt_ids, temperature, on_finished)

    def _sync(self, engine: VLLM) -> None:
        """Load the policy into the servers, unless they have this step's already; all ranks call it."""
        engine.sync(self.accelerator.unwrap_model(self.model_wrapped), self.state.global_step)

    def _complete(
        self,
        prompt_ids: list[list[int]],
        temperature: float,
        on_finished: Finished,
        frozen_states: FrozenStates | None = None,
    ) -> list[list[int]]:
        pad_id = self.processing_class.pad_token_id
        decoding = Decoding(self.max_completion_length, temperature, self._end_ids, pad_id, self._stops)
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            independent_passes(self.model_wrapped),
        ):
            return complete(model, prompt_ids, decoding, on_finished, frozen_states)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        """Return the reward servers' scores, NaN for a completion that could not be scored.

        TRL leaves such a completion out of its group's mean, and gives it the advantage 0.
        """
        self.compute_ahead()
        rewards = self._rollouts.rewards([completion[0]["content"] for completion in completions], completion_ids_list)
        own = torch.tensor(rewards, dtype=torch.float32, device=self.accelerator.device)
        self._rewards = gather_tensors(own[:, None])
        return self._rewards

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """Compute the loss of a pass; request the rewards of completions that have been sampled ahead meanwhile."""
        if self._next_step is not None:
            self._next_step.request_rewards()
        return super()._compute_loss(model, inputs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return the optimizer; at ZeRO stage 0 it also clips gradients: DeepSpeed would not report their norm."""
        # transformers also calls this method when the optimizer exists already.
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and clips_gradients(self._config.compute):
            optimizer.register_step_pre_hook(self._clip_gradients)
        return optimizer

    def _clip_gradients(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.hyperparameters.maximum_gradient_norm)
        self._gradient_norm = norm.item()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the metrics of a step; transformers also calls this method once at the end, with totals."""
        super().log(logs, start_time)
        if "loss" in logs:
            norm = logs.get("grad_norm", self._gradient_norm)
            self._recorder.record_metrics(self.state.global_step, self._rollouts, logs, norm)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a complete checkpoint or none, and store its validation reward, by which the best one is chosen."""
        step = self.state.global_step
        resumable = not self.args.save_only_model
        info = CheckpointInfo(step=step, validation_reward=self._validation_reward, resumable=resumable)
        with complete_checkpoint(self._folder, info, self._config.checkpoints.keep, self._reporter) as partial:
            super()._save_checkpoint(model, trial)
            if self._next_step is not None and isinstance(self._engine, VLLM) and rank() == 0:
                self._engine.store_version(checkpoints.sampler(partial))
        if resumable:
            self._resumable_step = step

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing, because the summary and the provenance describe the run."""


class _NothingLeft(Exception):
    """The validation on which a resumed run has caught up is its last one."""


def _scored_over_http(**kwargs: Any) -> list[float]:
    """Fill the place of a reward function, which TRL requires; `_calculate_rewards` asks the reward servers instead."""
    raise AssertionError("RFTTrainer computes rewards itself")
