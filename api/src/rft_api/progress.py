"""The progress of a run: what the trainer answers to `GET /progress`."""

from __future__ import annotations

from typing import Literal

from rft_api.model import Model

Phase = Literal["Starting", "Data", "Baseline", "Preflight", "WarmUp", "Training", "Evaluating", "Exporting", "Done"]


class HackingVerdict(Model):
    """Whether the reward rises while a shadow falls."""

    suspected: bool | None
    """Whether it does; null while there is nothing to compare."""
    message: str
    """The verdict in words: the shadow, the numbers, and what to do."""


class Progress(Model):
    """Where a run stands: the body of `GET /progress`."""

    phase: Phase = "Starting"
    """Stage of the run."""
    message: str = ""
    """What is happening, for a person."""
    done: int = 0
    """Units of the stage that are done: steps, or samples of an evaluation."""
    planned: int = 0
    """Units of the stage in all; 0 when unknown."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Optimizer steps planned."""
    epoch: float = 0.0
    """Passes over the training prompts done."""
    reward: float | None = None
    """Mean training reward of the last step."""
    validation_reward: float | None = None
    """Mean validation reward, last measured."""
    episode_length: float | None = None
    """Mean completion tokens of the last step."""
    gradient_norm: float | None = None
    """Gradient norm of the last step, before clipping."""
    rewards_failed: int = 0
    """Samples that could not be scored so far."""
    eta_seconds: float | None = None
    """Estimated seconds left in this stage."""
    reward_hacking: HackingVerdict | None = None
    """What comparing the reward with its shadows says; absent without shadows, and until training has begun."""
