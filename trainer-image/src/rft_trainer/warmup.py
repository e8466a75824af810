"""The supervised stage before reinforcement learning: trains on conversations with TRL's SFT trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset as ArrowDataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_api.warmup import Warmup
from rft_trainer.arguments import common_arguments
from rft_trainer.base_model import BaseModel
from rft_trainer.data import Conversation
from rft_trainer.distributed import any_rank, rank
from rft_trainer.modeling import (
    add_adapter,
    export_adapter,
    export_model,
    forget_zero_3,
    load_model,
    load_tokenizer,
    model_dtype,
)
from rft_trainer.progress import ProgressReporter

MICRO_BATCH = 8
"""Upper bound of the conversations in a forward and backward pass of each process."""


def run_warmup(
    config: TrainerConfig,
    base: BaseModel,
    warmup: Warmup,
    conversations: list[Conversation],
    reporter: ProgressReporter,
    should_stop: Callable[[], bool],
) -> None:
    """Train on the conversations, and write the complete weights to the run's `warmup` folder.

    Only the last message of each conversation, which is the assistant's, contributes to the loss.

    Raises:
        RunError: INTERRUPTED when the run must stop; the stage is short, and starts again from its beginning.
    """
    folder = RunFolder(config.output)
    scratch = folder.path / "warmup.checkpoint"
    callback = _WarmupCallback(reporter, should_stop)
    trainer = SFTTrainer(**trainer_arguments(config, base, warmup, conversations, scratch), callbacks=[callback])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if callback.stopped:
        raise RunError(ExitCode.INTERRUPTED, "stopped during the warm-up; start again to repeat the warm-up")
    reporter.update(message="writing the model after the warm-up")
    with reporter.writing(scratch, None):
        trainer.save_model(str(scratch))
    forget_zero_3()
    if rank() == 0:
        export = export_adapter if config.tuning.type == "LoRA" else export_model
        export(scratch, base, folder.warmup, reporter)
        shutil.rmtree(scratch)


def trainer_arguments(
    config: TrainerConfig,
    base: BaseModel,
    warmup: Warmup,
    conversations: list[Conversation],
    output: Path,
    **arguments: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of TRL's SFT trainer: model, tokenizer, data and settings.

    Args:
        config: the run's configuration.
        base: its base model.
        warmup: its supervised stage.
        conversations: what is imitated.
        output: the folder for checkpoints.
        arguments: settings that replace those of all runs.
    """
    tokenizer = load_tokenizer(base.folder, config.sampling.chat_template_arguments)
    model: Any = load_model(base.folder, model_dtype(config, base), config.compute)
    if config.tuning.type == "LoRA":
        model = add_adapter(model, config.tuning, config.hyperparameters.seed)
    share = max(1, warmup.batch_size // config.compute.world_size)
    micro = max(size for size in range(1, min(MICRO_BATCH, share) + 1) if share % size == 0)
    variables = config.sampling.chat_template_arguments
    template = {"chat_template_kwargs": variables} if variables else {}
    return {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": ArrowDataset.from_list(
            [{"prompt": c.messages[:-1], "completion": c.messages[-1:], **template} for c in conversations]
        ),
        "args": SFTConfig(
            output_dir=str(output),
            num_train_epochs=warmup.epochs,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=share // micro,
            learning_rate=warmup.learning_rate,
            lr_scheduler_type="linear",
            max_grad_norm=config.hyperparameters.maximum_gradient_norm,
            completion_only_loss=True,
            max_length=None,
            **{**common_arguments(config), **arguments},
        ),
    }


class _WarmupCallback(TrainerCallback):
    """Publishes the progress of the stage, and ends the stage when the run must stop."""

    def __init__(self, reporter: ProgressReporter, should_stop: Callable[[], bool]):
        self._reporter = reporter
        self._should_stop = should_stop
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reporter.update(done=state.global_step, planned=state.max_steps)
        # Ranks get the signal at different times, but must stop after the same step.
        self.stopped = any_rank(self._should_stop())
        control.should_training_stop = control.should_training_stop or self.stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._reporter.update(message=f"loss {float(logs['loss']):.3f}")
