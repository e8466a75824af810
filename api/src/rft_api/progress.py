"""The progress of a run: what the trainer answers to `GET /progress`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from rft_api.model import Model

Phase = Literal[
    "Starting", "Fetching", "Data", "Baseline", "Preflight", "WarmUp", "Training", "Evaluating", "Exporting", "Done"
]
PHASE_TITLES: dict[Phase, str] = {
    "Starting": "starting",
    "Fetching": "fetching model and data",
    "Data": "reading data",
    "Baseline": "scoring the base model",
    "Preflight": "checking that the model can learn from this reward",
    "WarmUp": "warm-up",
    "Training": "training",
    "Evaluating": "scoring the tuned model",
    "Exporting": "exporting",
    "Done": "done",
}
"""The stages of a run in words."""
_SEPARATOR = ": "
"""What separates the phase from the message in a `running_message`."""
_SCORED = ("Baseline", "Preflight", "Evaluating")
"""Stages whose samples are counted when they are generated, and then scored."""
Unit = Literal["samples", "steps", "rows", "MB"]
"""What the progress of a stage is counted in; a MB is a million bytes."""

Steps = Annotated[int, Field(ge=0, le=2**53)]
"""A number of steps. Larger ones are no exact numbers in many programs, and none at all for Kubernetes."""

OnBytes = Callable[[int], None]
"""Takes the number of bytes that have been read or copied since the last call."""
Report = Callable[[int, int], None]
"""Takes the number of bytes that have been read or copied so far, and their total."""


class HackingVerdict(Model):
    """Whether the reward rises while a shadow falls."""

    suspected: bool | None
    """Whether reward hacking is suspected; null while there is nothing to compare."""
    message: str
    """Explanation of the verdict: the shadow, the numbers, and what to do."""


class MemoryVerdict(Model):
    """Whether the memory that a job needs fits its GPUs."""

    fits: bool | None
    """Whether it fits; null when it cannot be planned."""
    message: str
    """Explanation of the verdict: what is needed, and what to lower."""


class Progress(Model):
    """The progress of a run: the body of `GET /progress`."""

    phase: Phase = "Starting"
    """Stage of the run."""
    message: str = ""
    """Description, for a person, of what the run is doing."""
    done: int = 0
    """Number of units of the stage that are complete."""
    planned: int = 0
    """Number of units of the stage; 0 when it is unknown."""
    unit: Unit = "samples"
    """Unit of `done` and `planned`."""
    detail: str = ""
    """How far the run is, for a person, with what `message` describes."""
    step: Steps = 0
    """Number of optimizer steps that are complete."""
    total_steps: Steps = 0
    """Number of optimizer steps that are planned."""
    epoch: float = 0.0
    """Number of passes over the training prompts so far."""
    loss: float | None = None
    """Loss of the last step of a warm-up alone."""
    validation_loss: float | None = None
    """Its loss on the validation conversations, when it was last measured."""
    reward: float | None = None
    """Mean reward of the completions of the last step."""
    validation_reward: float | None = None
    """Mean reward of the last validation."""
    episode_length: float | None = None
    """Mean number of tokens in the completions of the last step."""
    gradient_norm: float | None = None
    """Norm of the gradient in the last step, before clipping."""
    trained_tokens: int | None = None
    """Number of tokens so far that counted in the loss: of completions, or, in a warm-up alone, of answers. It is null
    before training, and when it is not known."""
    rewards_failed: int = 0
    """Number of samples so far that could not be scored."""
    eta_seconds: float | None = None
    """Estimated number of seconds until the stage ends."""
    reward_hacking: HackingVerdict | None = None
    """Verdict of comparing the reward with its shadows; absent without shadows, and before training has begun."""
    memory: MemoryVerdict | None = None
    """Verdict of planning the memory of the GPUs; absent on CPUs, and before the model's config.json has been read."""


class Pace:
    """The speed at which a stage completes its units.

    Args:
        start: when the stage began, in seconds of the clock.
        initial: units that were complete at its start.
    """

    def __init__(self, start: float, initial: int = 0):
        self._start = start
        self._initial = initial

    def seconds_left(self, completed: int, planned: int, now: float) -> float | None:
        """Return the seconds until all units are complete; None before the first one, and after the last one."""
        units = completed - self._initial
        if units <= 0 or completed >= planned:
            return None
        return (planned - completed) * (now - self._start) / units


def describe_progress(progress: Progress, seconds: float) -> str:
    """Return one line for a log: the stage, how far it is, and the time left.

    Args:
        progress: the progress of the run.
        seconds: how long the run has been doing what it does, which stands in for an unknown time left.
    """
    parts = [PHASE_TITLES[progress.phase]]
    if progress.planned:
        parts.append(f"{progress.done}/{progress.planned} {progress.unit}")
    elif progress.done:
        parts.append(f"{progress.done} {progress.unit}")
    parts += [part for part in (progress.message, progress.detail) if part not in ("", parts[0])]
    if progress.phase in _SCORED and progress.done >= progress.planned > 0:
        parts.append("waiting for the last rewards")
    elif progress.eta_seconds is not None:
        parts.append(f"about {format_seconds(progress.eta_seconds)} left")
    elif not progress.detail:
        parts.append(f"for {format_seconds(seconds)}")
    return " · ".join(parts)


def running_message(progress: Progress) -> str:
    """Return the message of the condition Succeeded while the trainer runs: the phase, and what the run is doing."""
    return f"{progress.phase}{_SEPARATOR}{progress.message}" if progress.message else progress.phase


def message_without_phase(message: str, phase: str | None) -> str:
    """Return what the run is doing from a `running_message` of this phase; that of another phase stays as it is."""
    if message == phase:
        return ""
    return message.removeprefix(f"{phase}{_SEPARATOR}")


def format_seconds(seconds: float) -> str:
    """Return a duration for a reader: 42s, 3m 05s, 2h 10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def count_bytes(total: int, report: Report) -> OnBytes:
    """Add up bytes: `report` gets those that have been read or copied so far, and their total."""
    completed = 0

    def count(more: int) -> None:
        nonlocal completed
        completed += more
        report(completed, total)

    return count


def ignore_bytes(count: int) -> None:
    """Take bytes that nobody counts."""


def ignore_report(completed: int, total: int) -> None:
    """Take the progress of what nobody waits for."""
