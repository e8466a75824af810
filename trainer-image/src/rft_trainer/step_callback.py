"""Passes the events of transformers' training loop to the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class StepCallback(TrainerCallback):
    """Tells the trainer when training begins and when a step has ended, and the loop what to do then.

    Args:
        training_began: called before the first step.
        step_ended: called with the number of a step; returns whether to save a checkpoint, and whether to stop.
    """

    def __init__(self, training_began: Callable[[], None], step_ended: Callable[[int], tuple[bool, bool]]):
        self._training_began = training_began
        self._step_ended = step_ended

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call `training_began`."""
        self._training_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Call `step_ended`, and pass what it returns on to the loop."""
        save, stop = self._step_ended(state.global_step)
        control.should_save = control.should_save or save
        control.should_training_stop = control.should_training_stop or stop
