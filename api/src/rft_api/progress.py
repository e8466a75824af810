"""The progress of a run: what the trainer answers to `GET /progress`."""

from __future__ import annotations

from typing import Literal

from rft_api.model import Model

Phase = Literal["Starting", "Data", "Baseline", "Preflight", "WarmUp", "Training", "Evaluating", "Exporting", "Done"]


class HackingVerdict(Model):
    """Whether the reward rises while a shadow falls."""

    suspected: bool | None
    """Whether reward hacking is suspected; null while there is nothing to compare."""
    message: str
    """Explanation of the verdict: the shadow, the numbers, and what to do."""


class Progress(Model):
    """The progress of a run: the body of `GET /progress`."""

    phase: Phase = "Starting"
    """Stage of the run."""
    message: str = ""
    """Description, for a person, of what the run is doing."""
    done: int = 0
    """Number of units of the stage that are complete: steps, or samples of an evaluation."""
    planned: int = 0
    """Number of units of the stage; 0 when it is unknown."""
    step: int = 0
    """Number of optimizer steps that are complete."""
    total_steps: int = 0
    """Number of optimizer steps that are planned."""
    epoch: float = 0.0
    """Number of passes over the training prompts so far."""
    reward: float | None = None
    """Mean reward of the completions of the last step."""
    validation_reward: float | None = None
    """Mean reward of the last validation."""
    episode_length: float | None = None
    """Mean number of tokens in the completions of the last step."""
    gradient_norm: float | None = None
    """Norm of the gradient in the last step, before clipping."""
    rewards_failed: int = 0
    """Number of samples so far that could not be scored."""
    eta_seconds: float | None = None
    """Estimated number of seconds until the stage ends."""
    reward_hacking: HackingVerdict | None = None
    """Verdict of comparing the reward with its shadows; absent without shadows, and before training has begun."""
