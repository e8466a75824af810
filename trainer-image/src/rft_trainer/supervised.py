"""A run that is its warm-up alone: it imitates conversations, and measures the loss on others before and after."""

from __future__ import annotations

import functools
import gc
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from rft_api.exit_codes import ExitCode, RunError
from rft_api.metrics import WarmupMetrics
from rft_api.progress import Phase
from rft_api.run_folder import CheckpointInfo, RunFolder, Stage
from rft_api.summary import Summary
from rft_api.trainer_config import TrainerConfig
from rft_api.warmup import Warmup
from rft_trainer.base_model import BaseModel
from rft_trainer.checkpoint_writing import complete_checkpoint
from rft_trainer.data import Conversation, Dataset, WarmupData
from rft_trainer.distributed import any_rank, gather, independent_passes, rank, wait_for_all
from rft_trainer.engines import Policy, start_engine
from rft_trainer.evaluator import Evaluator
from rft_trainer.flow import Run
from rft_trainer.losses import mean_loss, measure_losses, write_losses
from rft_trainer.metrics_log import append_metrics, read_warmup_steps
from rft_trainer.modeling import export_adapter, export_model, forget_zero_3, load_adapter, stated_end_token_ids
from rft_trainer.progress import ProgressReporter
from rft_trainer.recorder import DIVERGED_STEPS
from rft_trainer.rewards import RewardClient
from rft_trainer.rollout_servers.command import BASE
from rft_trainer.step_callback import StepCallback
from rft_trainer.summary import build_supervised_summary
from rft_trainer.warmup import trainer_arguments

IGNORED = -100
"""Label of tokens that are not imitated, in transformers."""


class SupervisedRun(Run):
    """One start of a run that is its warm-up alone, as one of its ranks executes it."""

    def warm_up(self) -> None:
        """Train from the newest checkpoint, if there is one, and export the weights of the last step.

        Raises:
            RunError: when the data or the model is invalid, the run has diverged, or it must stop.
        """
        base, _, data, _ = self._inputs()
        resume = self._prepare_output(base)
        self._phase("WarmUp", f"imitating {len(data.conversations)} answers", unit="steps")
        trainer = ImitationTrainer(self._config, base, self._warmup(), data, self._reporter, self._should_stop)
        trainer.imitate(resume)
        if trainer.interrupted:
            raise RunError(
                ExitCode.INTERRUPTED,
                f"stopped after step {trainer.state.global_step}; its checkpoint is saved, start again to go on",
            )
        forget_zero_3()
        if rank() == 0:
            self._phase("Exporting", f"step {trainer.total_steps}")
            export = export_model if self._config.tuning.type == "Full" else export_adapter
            export(self._folder.checkpoint(trainer.total_steps), base, self._folder.best, self._reporter)
        wait_for_all()

    def train(self) -> Summary | None:
        """Measure base model and tuned model; write the summary to the output folder, and return it on rank 0.

        Raises:
            RunError: for every fault that a user can correct; INTERRUPTED when the run must stop.
        """
        if any_rank(self._folder.summary.exists()):
            return self._earlier_summary()
        base, tokenizer, data, dataset = self._inputs()
        self._prepare_output(base)
        with ExitStack() as stack:
            evaluator = self._start_evaluator(stack, base, tokenizer) if dataset.test else None
            model = functools.cache(lambda: self._load(base, base.folder))
            self._measure("base", tokenizer, data.validation, "Baseline", model)
            if evaluator is not None:
                start = Policy(BASE, None, model)
                self._evaluate("base", start, dataset.test, evaluator, "Baseline", "scoring the base model")
            model.cache_clear()
            self._measure("tuned", tokenizer, data.validation, "Evaluating", lambda: self._load_tuned(base))
            if evaluator is not None:
                self._evaluate_tuned(base, dataset.test, evaluator)
        return self._finish(lambda seconds: build_supervised_summary(self._config, dataset, data, base, seconds))

    def _warmup(self) -> Warmup:
        assert self._config.warmup is not None, "a job without data.train has a warm-up"
        return self._config.warmup

    def _inputs(self) -> tuple[BaseModel, PreTrainedTokenizerBase, WarmupData, Dataset]:
        base = self._fetch_base_model()
        tokenizer = self._load_tokenizer(base)
        data = self._conversations(base, tokenizer, self._warmup())
        return base, tokenizer, data, self._dataset(base, tokenizer)

    def _load_tuned(self, base: BaseModel) -> Any:
        """Load the exported model or adapter, from the files that will be served."""
        if self._config.tuning.type == "Full":
            return self._load(base, str(self._folder.best))
        return load_adapter(self._load(base, base.folder), self._folder.best, trainable=False).to(self._device)

    def _measure(
        self,
        stage: Stage,
        tokenizer: PreTrainedTokenizerBase,
        validation: list[Conversation],
        phase: Phase,
        load: Callable[[], Any],
    ) -> None:
        """Write the loss of a model on each validation conversation, unless the file exists already."""
        if any_rank(self._folder.losses(stage).exists()):
            return
        self._phase(phase, "loading the model")
        model = load()
        self._phase(phase, f"measuring the loss of the {stage} model", len(validation), "rows")
        arguments = self._config.sampling.chat_template_arguments
        losses = measure_losses(model, tokenizer, validation, arguments, self._report_completed)
        if rank() == 0:
            write_losses(self._folder.losses(stage), losses)
        wait_for_all()
        del model
        gc.collect()

    def _start_evaluator(self, stack: ExitStack, base: BaseModel, tokenizer: PreTrainedTokenizerBase) -> Evaluator:
        """Return what completes and scores the test prompts, until the stack is closed."""
        config = self._config
        client = RewardClient(config.rewards, self._should_stop)
        stack.callback(client.close)
        engine = stack.enter_context(closing(start_engine(config, base, tokenizer, self._should_stop)))
        self._wait_for_servers(engine)
        return Evaluator(
            engine, tokenizer, stated_end_token_ids(base.folder, tokenizer), client,
            config.hyperparameters.max_completion_tokens, config.sampling, self._report_completed,
        )  # fmt: skip


class ImitationTrainer(SFTTrainer):
    """TRL's SFT trainer with complete checkpoints, metrics of each step, and the loss on the validation conversations.

    Args:
        config: the run's configuration.
        base: its base model.
        warmup: its supervised stage.
        data: its conversations.
        reporter: where progress is published.
        should_stop: polled after every step; when true on any rank, a checkpoint is saved and training ends.
    """

    def __init__(
        self,
        config: TrainerConfig,
        base: BaseModel,
        warmup: Warmup,
        data: WarmupData,
        reporter: ProgressReporter,
        should_stop: Callable[[], bool],
    ):
        self.interrupted = False
        self._config = config
        self._folder = RunFolder(config.output)
        self._validation = data.validation
        self._reporter = reporter
        self._should_stop = should_stop
        self._diverged_steps = 0
        self._tokens = 0
        self._trained_tokens = 0
        self._passes: list[tuple[int, float]] = []
        """Of each pass of the step: the tokens that this process imitates, and the share of those of all processes that
        is correct."""
        self._started = time.monotonic()
        arguments = trainer_arguments(
            config, base, warmup, data.conversations, self._folder.checkpoints,
            # The loss of a step that is not finite would be replaced by the mean of those before.
            logging_nan_inf_filter=False,
        )  # fmt: skip
        super().__init__(**arguments, callbacks=[StepCallback(lambda: None, self.step_ended)])
        self.remove_callback(PrinterCallback)
        batches = math.ceil(len(data.conversations) / self.args.per_device_train_batch_size / config.compute.world_size)
        self.total_steps = warmup.epochs * math.ceil(batches / self.args.gradient_accumulation_steps)
        """Optimizer steps of the whole run."""

    def imitate(self, resume: CheckpointInfo | None) -> None:
        """Train to the end, from a checkpoint if there is one.

        Raises:
            RunError: DIVERGED when the loss is not finite; OUTPUT_FAILED when a checkpoint cannot be written.
        """
        self._reporter.plan(self.total_steps, completed=resume.step if resume else 0)
        self._reporter.update(planned=self.total_steps, done=resume.step if resume else 0)
        earlier = read_warmup_steps(self._folder)
        # TRL counts from 0 again.
        self._total_train_tokens = self._tokens = earlier[-1].tokens if earlier else 0
        self._trained_tokens = earlier[-1].trained_tokens if earlier else 0
        self._reporter.update(trained_tokens=self._trained_tokens)
        if resume is None or resume.step < self.total_steps:
            self.train(resume_from_checkpoint=str(self._folder.checkpoint(resume.step)) if resume else None)

    def step_ended(self, step: int) -> tuple[bool, bool]:
        """Return whether to save a checkpoint after a step, and whether to stop."""
        self.interrupted = any_rank(self._should_stop())
        interval = self._config.checkpoints.interval or self._config.hyperparameters.eval_interval
        return self.interrupted or step == self.total_steps or step % interval == 0, self.interrupted

    # The methods below override those of TRL and transformers.

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count the tokens of a pass that are imitated, of which TRL logs neither the number nor the share of the step
        that is correct: it logs the mean over passes, whatever their tokens."""
        counted = int((inputs["labels"][..., 1:] != IGNORED).sum())
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self._passes.append((counted, self._metrics["train"]["mean_token_accuracy"][-1]))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the metrics of a step; transformers also calls this method once at the end, with totals."""
        super().log(logs, start_time)
        if "loss" in logs:
            self._record(logs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a complete checkpoint or none."""
        info = CheckpointInfo(step=self.state.global_step, validation_reward=None)
        with complete_checkpoint(self._folder, info, self._config.checkpoints.keep, self._reporter):
            super()._save_checkpoint(model, trial)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing, because the summary and the provenance describe the run."""

    def _record(self, logs: dict[str, float]) -> None:
        """Append the step's line to metrics.jsonl, and publish it; validate after each epoch.

        A run that is told to stop saves its checkpoint at once: its line then has no validation.
        """
        step, loss, norm = self.state.global_step, logs["loss"], logs.get("grad_norm")
        self._stop_if_diverged(step, loss, norm)
        is_due = float(self.state.epoch or 0.0).is_integer() or step == self.total_steps
        validation_loss = self._validation_loss(step) if is_due and not self.interrupted else None
        now = time.monotonic()
        tokens, accuracy = self._take_passes()
        self._trained_tokens += tokens
        metrics = WarmupMetrics(
            step=step,
            epoch=float(self.state.epoch or 0.0),
            loss=_finite(loss),
            accuracy=accuracy,
            validation_loss=_finite(validation_loss),
            gradient_norm=_finite(norm),
            learning_rate=logs["learning_rate"],
            tokens=int(logs["num_tokens"]),
            trained_tokens=self._trained_tokens,
            seconds=now - self._started,
            ended_at=time.time(),
        )
        self._started = now
        if rank() == 0:
            append_metrics(self._folder, metrics)
            self._reporter.record_warmup(metrics, metrics.tokens - self._tokens)
            fields = {
                "step": step, "epoch": metrics.epoch, "loss": metrics.loss, "trained_tokens": metrics.trained_tokens,
            }  # fmt: skip
            if validation_loss is not None:
                fields["validation_loss"] = metrics.validation_loss
            self._reporter.update(message="", done=step, gradient_norm=metrics.gradient_norm, **fields)
        self._tokens = metrics.tokens

    def _take_passes(self) -> tuple[int, float | None]:
        """Return how many tokens all processes have imitated in the step, and the share of them that is correct."""
        of_ranks = gather(self._passes)
        tokens = [sum(counted for counted, _ in passes) for passes in zip(*of_ranks, strict=True)]
        correct = sum(count * share for count, (_, share) in zip(tokens, self._passes, strict=True))
        self._passes = []
        return sum(tokens), correct / sum(tokens) if sum(tokens) else None

    def _validation_loss(self, step: int) -> float:
        """Return the loss on the validation conversations; all ranks call it."""
        self._reporter.update(message=f"validating after step {step}")
        report = self._reporter.part(len(self._validation), "conversations")
        arguments = self._config.sampling.chat_template_arguments
        with (
            self.compute_loss_context_manager(),
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            independent_passes(self.model_wrapped),
        ):
            return mean_loss(measure_losses(model, self.processing_class, self._validation, arguments, report))

    def _stop_if_diverged(self, step: int, loss: float, norm: float | None) -> None:
        is_finite = math.isfinite(loss) and (norm is None or math.isfinite(norm))
        self._diverged_steps = 0 if is_finite else self._diverged_steps + 1
        if self._diverged_steps >= DIVERGED_STEPS:
            raise RunError(
                ExitCode.DIVERGED,
                f"loss or gradient norm was not finite for {DIVERGED_STEPS} steps up to step {step}; lower "
                f"spec.warmup.learningRate",
            )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
