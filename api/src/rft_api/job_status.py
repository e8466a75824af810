"""The status of an RFTJob: what the operator observed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import DecimalString, Duration, Integer, SignedDecimalString
from rft_api.resource import Conditions, Timestamp
from rft_api.sources import Uri


class JobProgress(Model):
    """Progress of the run."""

    phase: Annotated[str, Field(max_length=64)] | None = None
    """Stage that the run is in, such as Training."""
    step: Integer | None = None
    """Number of optimizer steps that are complete."""
    total_steps: Integer | None = None
    """Number of optimizer steps that the run will take, unless it stops early."""
    epoch: DecimalString | None = None
    """Number of passes over the training prompts so far."""
    loss: DecimalString | None = None
    """Loss of the last step of a warm-up alone."""
    validation_loss: DecimalString | None = None
    """Its loss on the validation conversations, when it was last measured."""
    reward: SignedDecimalString | None = None
    """Mean reward of the completions of the last step."""
    validation_reward: SignedDecimalString | None = None
    """Mean reward of the last validation."""
    episode_length: DecimalString | None = None
    """Mean number of tokens in the completions of the last step."""
    gradient_norm: DecimalString | None = None
    """Norm of the gradient in the last step, before clipping."""
    trained_tokens: Integer | None = None
    """Number of completion tokens so far that counted in the loss, over all starts of the run: all but those of the
    completions that maskTruncatedCompletions leaves out. Tokens of prompts and of the warm-up do not count; in a job
    without data.train, the tokens of the warm-up that are imitated do. Absent before training, and in a run that an
    older version has begun."""
    eta: Duration | None = None
    """Estimated time until the current stage ends."""


class JobResult(Model):
    """The result of a finished job, measured on held-out prompts."""

    baseline_reward: SignedDecimalString | None = None
    """Mean reward of the base model on the held-out prompts; absent without prompts, of a warm-up alone."""
    best_reward: SignedDecimalString | None = None
    """Mean reward of the tuned model on the held-out prompts."""
    gain: Annotated[str, Field(max_length=32)] | None = None
    """Mean reward of the tuned model minus that of the base model, with a sign."""
    interval: Annotated[str, Field(max_length=64)] | None = None
    """95 % confidence interval of the gain, computed by a paired bootstrap."""
    baseline_loss: DecimalString | None = None
    """Loss of the base model on the held-out conversations of a warm-up alone, in nats for each token of an answer."""
    tuned_loss: DecimalString | None = None
    """Loss of the tuned model on the same conversations."""
    loss_change: Annotated[str, Field(max_length=32)] | None = None
    """Loss of the tuned model minus that of the base model, with a sign; below 0, the tuned model is better."""
    loss_interval: Annotated[str, Field(max_length=64)] | None = None
    """95 % confidence interval of this change, computed by a paired bootstrap over conversations."""
    checkpoint: Annotated[str, Field(max_length=1024)]
    """Address of the exported model or adapter, ready to be served."""
    base_model: Annotated[str, Field(max_length=1024)] | None = None
    """Address of the base model at the commit that was trained from; absent for a model that is not on the hub."""


class JobCheckpoint(Model):
    """A checkpoint that has been kept."""

    step: Integer
    """Optimizer step after which the checkpoint was written."""
    validation_reward: SignedDecimalString
    """Mean reward of the validation after that step."""
    uri: Uri
    """Address of the checkpoint."""


class JobUsage(Model):
    """The GPU time that a job has used."""

    gpu_hours: DecimalString
    """GPU hours: the number of GPUs times the hours for which the job's pods held them."""
    gpu_seconds: Integer
    """The same time in GPU seconds, without rounding."""
    cost: DecimalString | None = None
    """What the GPU hours cost; absent when the chart's value gpuHourPrice is not set."""
    cost_per_point: DecimalString | None = None
    """Cost for each hundredth of reward that the tuned model gained; absent before the end, and without a gain."""
    measured_at: Timestamp
    """Time up to which usage has been counted."""


class RFTJobStatus(Model):
    """The observed state of a job; the operator writes it."""

    conditions: Conditions = []
    """Conditions of the job. Each describes one aspect of its state."""
    progress: JobProgress | None = None
    """Progress of the run."""
    result: JobResult | None = None
    """Result of the run; absent until the job has succeeded."""
    checkpoints: Annotated[list[JobCheckpoint], Field(max_length=3)] = []
    """The three checkpoints with the highest validation reward, best first."""
    usage: JobUsage | None = None
    """GPU time that the job has used so far; absent for jobs without GPUs."""
    start_time: Timestamp | None = None
    """Time at which the first trainer process started. limits.deadline counts from this time."""
    completion_time: Timestamp | None = None
    """Time at which the job ended."""
    retries: Integer | None = None
    """Number of restarts so far that count against limits.retries."""
