"""Convert the progress and the result of the trainer to the fields of an RFTJob's status."""

from __future__ import annotations

import math

from rft_api.hub_address import HubAddress, parse_hub_address
from rft_api.job_status import JobCheckpoint, JobProgress, JobResult
from rft_api.progress import Progress
from rft_api.run_folder import best_address, checkpoint_address
from rft_api.termination import RunResult
from rft_operator.kube.timestamps import format_duration


def describe_progress(progress: Progress) -> JobProgress:
    """Return the progress as the status shows it."""
    return JobProgress(
        phase=progress.phase,
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=_decimal(progress.epoch),
        reward=_decimal(progress.reward),
        validation_reward=_decimal(progress.validation_reward),
        episode_length=_decimal(progress.episode_length),
        gradient_norm=_decimal(progress.gradient_norm),
        eta=None if progress.eta_seconds is None else format_duration(progress.eta_seconds),
    )


def finish_progress(progress: JobProgress | None, result: RunResult) -> JobProgress:
    """Return the progress of a run that has succeeded, because the last progress was observed before its last steps."""
    last = progress or JobProgress()
    # The total is larger than the steps after early stopping, and may be unknown when the trainer was not asked.
    total = max(last.total_steps or 0, result.steps)
    return last.model_copy(update={"phase": "Done", "step": result.steps, "total_steps": total, "eta": None})


def describe_result(result: RunResult, output: str, model: str) -> tuple[JobResult, list[JobCheckpoint]]:
    """Return the result and the best checkpoints as the status shows them, for the addresses of output and model."""
    address = parse_hub_address(model) if result.base_revision is not None else None
    described = JobResult(
        baseline_reward=f"{result.base_reward:.4f}",
        best_reward=f"{result.tuned_reward:.4f}",
        gain=f"{result.gain.mean:+.4f}",
        interval=f"{result.gain.low:+.4f} to {result.gain.high:+.4f}",
        checkpoint=best_address(output),
        base_model=str(HubAddress(address.repository, result.base_revision)) if address is not None else None,
    )
    checkpoints = [
        JobCheckpoint(
            step=checkpoint.step,
            validation_reward=f"{checkpoint.validation_reward:.4f}",
            uri=checkpoint_address(output, checkpoint.step),
        )
        for checkpoint in result.checkpoints
        if checkpoint.validation_reward is not None
    ]
    return described, checkpoints


def _decimal(value: float | None) -> str | None:
    return f"{value:.4f}" if value is not None and math.isfinite(value) else None
