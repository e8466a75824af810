"""A trainer pod's termination message: a failure's reason and text, or the result of a run that succeeded."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from rft_api.exit_codes import ExitCode
from rft_api.metrics import Gain
from rft_api.model import Model
from rft_api.progress import HackingVerdict
from rft_api.run_folder import CheckpointInfo
from rft_api.summary import Summary

MAXIMUM_BYTES = 4096
"""What Kubernetes keeps of a termination message."""
KEPT_CHECKPOINTS = 3


class RunResult(Model):
    """The part of a run's summary that fits into a termination message."""

    steps: int
    """Optimizer steps done."""
    stopped_early: bool
    """Whether early stopping ended the run."""
    best_step: int
    """Step of the exported checkpoint."""
    checkpoints: list[CheckpointInfo]
    """The best checkpoints, best first."""
    prompts: int
    """Held-out prompts that the rewards are means over."""
    base_reward: float
    """Mean reward of the base model."""
    tuned_reward: float
    """Mean reward of the exported model."""
    gain: Gain
    """Tuned against base."""
    reward_hacking: HackingVerdict | None = None
    """What comparing the reward with its shadows says."""


@dataclass(frozen=True)
class Failure:
    """Why a run ended before its end."""

    reason: str | None
    """Reason of an `ExitCode`; none when the message is not the trainer's own."""
    message: str
    """The text."""


def success_message(summary: Summary) -> str:
    """What rank 0 writes as its termination message when the run has succeeded."""
    return RunResult(
        steps=summary.steps,
        stopped_early=summary.stopped_early,
        best_step=summary.best_step,
        checkpoints=summary.checkpoints[:KEPT_CHECKPOINTS],
        prompts=summary.prompts,
        base_reward=summary.base.reward,
        tuned_reward=summary.tuned.reward,
        gain=summary.gain,
        reward_hacking=summary.reward_hacking,
    ).model_dump_json(by_alias=True, exclude_none=True)


def parse_result(message: str) -> RunResult | None:
    """The result in a termination message; none when it holds no result."""
    try:
        return RunResult.model_validate_json(message)
    except ValidationError:
        return None


def parse_failure(message: str) -> Failure:
    """The failure in a termination message; without the trainer's own, Kubernetes gives the end of the log."""
    text = message.strip()
    reason, separator, rest = text.partition(": ")
    if separator and reason in {code.reason for code in ExitCode}:
        return Failure(reason, rest.strip())
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "stopped: "))]
    last = errors[-1].partition(": ")[2] if errors else (lines[-1] if lines else "")
    return Failure(None, last.strip())
