"""Convert the progress and the result of the trainer to the fields of an RFTJob's status."""

from __future__ import annotations

import math

from rft_api.foreign.text import one_line
from rft_api.hub_address import HubAddress, parse_hub_address
from rft_api.job_status import JobCheckpoint, JobProgress, JobResult
from rft_api.metrics import Gain
from rft_api.progress import Progress
from rft_api.run_folder import best_address, checkpoint_address
from rft_api.termination import RunResult
from rft_operator.kube.timestamps import format_duration

_EXACT_BELOW = 1e15
"""Numbers from here on have no exact decimals, and soon more digits than the status takes."""
_LARGEST_COUNT = 2**53
"""Larger whole numbers are no exact numbers in many programs."""
_LONGEST_ETA = 10 * 365 * 86400
"""Seconds; nobody waits longer for a stage, and the status takes no duration of any length."""


def describe_progress(progress: Progress) -> JobProgress:
    """Return the progress as the status shows it. A number that the status cannot have costs that number only."""
    return JobProgress(
        phase=progress.phase,
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=_positive(progress.epoch),
        loss=_positive(progress.loss),
        validation_loss=_positive(progress.validation_loss),
        reward=_decimal(progress.reward),
        validation_reward=_decimal(progress.validation_reward),
        episode_length=_positive(progress.episode_length),
        gradient_norm=_positive(progress.gradient_norm),
        trained_tokens=_count(progress.trained_tokens),
        eta=_eta(progress.eta_seconds),
    )


def finish_progress(progress: JobProgress | None, result: RunResult) -> JobProgress:
    """Return the progress of a run that has succeeded, because the last progress was observed before its last steps."""
    last = progress or JobProgress()
    # The total is larger than the steps after early stopping, and may be unknown when the trainer was not asked.
    total = max(last.total_steps or 0, result.steps)
    end = {"phase": "Done", "step": result.steps, "total_steps": total, "trained_tokens": result.trained_tokens}
    return last.model_copy(update={**end, "eta": None})


def describe_result(result: RunResult, output: str, model: str) -> tuple[JobResult, list[JobCheckpoint]]:
    """Return the result and the best checkpoints as the status shows them, for the addresses of output and model."""
    address = parse_hub_address(model) if result.base_revision is not None else None
    gain, loss = result.gain, result.loss
    described = JobResult(
        baseline_reward=_decimal(result.base_reward),
        best_reward=_decimal(result.tuned_reward),
        gain=_difference(gain.mean) if gain else None,
        interval=_interval(gain) if gain else None,
        baseline_loss=_positive(loss.base) if loss else None,
        tuned_loss=_positive(loss.tuned) if loss else None,
        loss_change=_difference(loss.change.mean) if loss else None,
        loss_interval=_interval(loss.change) if loss else None,
        checkpoint=best_address(output),
        base_model=str(HubAddress(address.repository, result.base_revision)) if address is not None else None,
    )
    checkpoints = [
        JobCheckpoint(
            step=checkpoint.step,
            validation_reward=_number(checkpoint.validation_reward),
            uri=checkpoint_address(output, checkpoint.step),
        )
        for checkpoint in result.checkpoints
        if checkpoint.validation_reward is not None
    ]
    return described, checkpoints


def remarks(result: RunResult) -> str:
    """Return what the condition of a job that has succeeded says about its result; empty without anything to say."""
    texts = [one_line(sentence) for sentence in result.not_tracked or []]
    if result.changed_inputs:
        texts.insert(
            0,
            f"the run had already ended, and the result is of what it measured then; these inputs have changed since: "
            f"{one_line(', '.join(result.changed_inputs))}. To measure what is there now, choose another spec.output",
        )
    return ". ".join(texts)


def _decimal(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else _number(value)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < _EXACT_BELOW else f"{value:.4e}"


def _interval(gain: Gain) -> str:
    return f"{_difference(gain.low)} to {_difference(gain.high)}"


def _difference(value: float) -> str:
    return f"{value:+.4f}" if abs(value) < _EXACT_BELOW else f"{value:+.4e}"


def _positive(value: float | None) -> str | None:
    return _decimal(abs(value)) if value is not None and value >= 0 else None  # not -0


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _LARGEST_COUNT else None


def _eta(seconds: float | None) -> str | None:
    return format_duration(seconds) if seconds is not None and 0 <= seconds <= _LONGEST_ETA else None
