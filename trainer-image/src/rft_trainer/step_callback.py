"""Passes the events of transformers' training loop to the trainer."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import TrainerCallback


class StepObserver(Protocol):
    """Whoever acts at the beginning of training and after each step."""

    def training_began(self) -> None:
        """Act before the first step of this start."""

    def step_ended(self, number: int) -> tuple[bool, bool]:
        """Act after a step, and return whether to save a checkpoint, and whether to stop."""


class StepCallback(TrainerCallback):
    """Tells the trainer when training begins and when a step has ended, and what the loop has to do then.

    Args:
        trainer: who is told.
    """

    def __init__(self, trainer: StepObserver):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validate before the first step, or what a resumed run has to catch up on."""
        self._trainer.training_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step, and ask the loop to save a checkpoint or to stop."""
        save, stop = self._trainer.step_ended(state.global_step)
        control.should_save = control.should_save or save
        control.should_training_stop = control.should_training_stop or stop
