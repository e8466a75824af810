"""The status of an RFTJob: what the operator observed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import DecimalString, Duration, Integer, SignedDecimalString
from rft_api.resource import Conditions, Timestamp
from rft_api.sources import Uri


class JobProgress(Model):
    """Where a running job stands."""

    phase: Annotated[str, Field(max_length=64)] | None = None
    """Stage of the run, such as Training."""
    step: Integer | None = None
    """Optimizer steps done."""
    total_steps: Integer | None = None
    """Optimizer steps planned."""
    epoch: DecimalString | None = None
    """Passes over the training prompts done."""
    reward: SignedDecimalString | None = None
    """Mean training reward of the last step."""
    validation_reward: SignedDecimalString | None = None
    """Mean validation reward, last measured."""
    episode_length: DecimalString | None = None
    """Mean completion tokens of the last step."""
    gradient_norm: DecimalString | None = None
    """Gradient norm of the last step, before clipping."""
    eta: Duration | None = None
    """Estimated time left."""


class JobResult(Model):
    """What the job achieved, on held-out prompts."""

    baseline_reward: SignedDecimalString
    """Mean reward of the base model."""
    best_reward: SignedDecimalString
    """Mean reward of the tuned model."""
    gain: Annotated[str, Field(max_length=32)]
    """Mean difference, with its sign."""
    interval: Annotated[str, Field(max_length=64)]
    """95 % confidence interval of the gain (paired bootstrap)."""
    checkpoint: Annotated[str, Field(max_length=1024)]
    """Address of the exported model or adapter."""


class JobCheckpoint(Model):
    """A kept checkpoint."""

    step: Integer
    """Optimizer step it was written at."""
    validation_reward: SignedDecimalString
    """Mean validation reward there."""
    uri: Uri
    """Where it is."""


class JobUsage(Model):
    """What the job used."""

    gpu_hours: DecimalString
    """GPUs times the hours that pods held them."""
    gpu_seconds: Integer
    """The same in seconds, exactly."""
    measured_at: Timestamp
    """Moment up to which usage is counted."""


class RFTJobStatus(Model):
    """What the operator observed."""

    conditions: Conditions = []
    """The state, one condition per aspect."""
    progress: JobProgress | None = None
    """Where a running job stands."""
    result: JobResult | None = None
    """What a finished job achieved."""
    checkpoints: Annotated[list[JobCheckpoint], Field(max_length=3)] = []
    """The three best checkpoints by validation reward."""
    usage: JobUsage | None = None
    """What the job used so far; absent for jobs without GPUs."""
    start_time: Timestamp | None = None
    """When the first trainer process started; limits.deadline counts from here."""
    completion_time: Timestamp | None = None
    """When the job ended."""
    retries: Integer | None = None
    """Restarts so far that counted against limits.retries."""
