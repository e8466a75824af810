"""Passes the events of transformers' training loop to the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from rft_trainer.grpo import RFTTrainer


class StepCallback(TrainerCallback):
    """Tells the trainer when training begins and when a step has ended, and what the loop has to do then.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: RFTTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validate before the first step, or what a resumed run has to catch up on."""
        self._trainer.training_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step, and ask the loop to save a checkpoint or to stop."""
        save, stop = self._trainer.step_ended(state.global_step)
        control.should_save = control.should_save or save
        control.should_training_stop = control.should_training_stop or stop
