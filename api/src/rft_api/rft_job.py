"""The RFTJob resource: model, data, rewards and how to train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.job_status import RFTJobStatus
from rft_api.model import Model, Rule
from rft_api.quantities import Between, Boolean, Decimal, Duration, Integer, Name
from rft_api.resource import API_VERSION, Metadata, PodOverrides, SecretReference
from rft_api.sources import Data, Uri
from rft_api.training import (
    Algorithm,
    EarlyStopping,
    Hyperparameters,
    Preflight,
    SplitSource,
    TrainerCompute,
    Tuning,
    Warmup,
    split_sources,
)


class ModelSource(Model):
    """Where model weights are."""

    uri: Uri
    """hf://OWNER/NAME, s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in local runs, a path."""


class Compute(TrainerCompute):
    """The machines of the trainer."""

    gpu_resource: Annotated[str, Field(max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource that GPUs are requested as."""
    pod: PodOverrides | None = None
    """Changes to the trainer's pods."""

    def for_trainer(self) -> TrainerCompute:
        """The part that the trainer reads."""
        return TrainerCompute.model_construct(**{name: getattr(self, name) for name in TrainerCompute.model_fields})


class Output(Model):
    """Where the run's files go."""

    uri: Uri
    """s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in local runs, a folder."""


class Limits(Model):
    """When to give up."""

    gpu_hours: Annotated[Decimal, Between("0", "1000000000", low_included=False)] | None = None
    """GPU hours after which the job is stopped; its best checkpoint stays."""
    deadline: Duration | None = None
    """Time from the start after which the job is stopped; its best checkpoint stays."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """Restarts after failures that may pass; node disruptions are not counted."""


class JobEndpoint(Model):
    """The InferenceEndpoint that a finished job leaves behind."""

    name: Name
    """Name of the InferenceEndpoint, and of the tuned model in its API."""
    base_endpoint: Name | None = None
    """InferenceEndpoint of the base model that serves the adapter, created when missing; else a server of its own."""
    deletion_policy: Literal["Delete", "Keep"] = "Delete"
    """Whether the endpoint goes when the job is deleted."""


class RFTJobSpec(Model):
    """What to train, on what, judged by what."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.endpoint) || !has(self.endpoint.baseEndpoint) || self.tuning.type == 'LoRA'",
            message="endpoint.baseEndpoint serves LoRA adapters; with tuning type Full leave it out",
            holds=lambda spec: (
                spec.endpoint is None or spec.endpoint.base_endpoint is None or spec.tuning.type == "LoRA"
            ),
        ),
        Rule(
            cel="!has(self.shadowRewards) || self.shadowRewards.all(a, self.shadowRewards.exists_one(b, b == a))",
            message="shadowRewards: every name may stand there once",
            holds=lambda spec: len(set(spec.shadow_rewards)) == len(spec.shadow_rewards),
        ),
        Rule(
            cel="!has(self.shadowRewards) || !self.data.train.exists(s, s.reward in self.shadowRewards)",
            message="shadowRewards: a reward that is trained on is recorded anyway; remove it there",
            holds=lambda spec: not {source.reward for source in spec.data.train} & set(spec.shadow_rewards),
        ),
        Rule(
            # Its loss needs importance weights that are truncated or masked by token, which no setting gives yet.
            cel="self.algorithm != 'VESPO' || !has(self.compute) || !has(self.compute.rollouts)"
            " || self.compute.rollouts.engine == 'Transformers'",
            message="algorithm VESPO cannot learn from rollouts of vLLM; set compute.rollouts.engine: Transformers, or "
            "another algorithm",
            holds=lambda spec: spec.algorithm != "VESPO" or spec.compute.rollouts.engine == "Transformers",
        ),
    )

    model: ModelSource
    """The base model."""
    data: Data
    """The prompts."""
    shadow_rewards: Annotated[list[Name], Field(max_length=8)] = []
    """Names of RewardFunctions that score every completion as well, to be compared with the reward: recorded, and never
    trained on."""
    warmup: Warmup | None = None
    """A supervised stage before reinforcement learning; none when absent."""
    algorithm: Algorithm = "GRPO"
    """The policy-gradient loss, by its usual name."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """How to train."""
    tuning: Tuning = Tuning()
    """Which weights are trained."""
    compute: Compute = Compute()
    """The machines."""
    output: Output
    """Where the run's files go."""
    credentials: SecretReference | None = None
    """Secret with the credentials for s3:// and hf:// addresses."""
    preflight: Preflight = Preflight()
    """The check before training."""
    limits: Limits = Limits()
    """When to give up."""
    early_stopping: EarlyStopping | None = None
    """Ends training when validation stops improving; off when absent."""
    suspend: Boolean = False
    """Saves a checkpoint and stops the pods; set back to false to go on."""
    queue_name: Name | None = None
    """Kueue LocalQueue that admits the job."""
    endpoint: JobEndpoint | None = None
    """The endpoint to create when the job has succeeded; none when absent."""

    def sources(self) -> Iterator[SplitSource]:
        """Every source of prompts and conversations."""
        return split_sources(self.data, self.warmup)


class RFTJob(Model):
    """Reinforcement fine-tuning of one model."""

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Always rft.dev/v1alpha1."""
    kind: Literal["RFTJob"] = "RFTJob"
    """Always RFTJob."""
    metadata: Metadata
    """Standard object metadata."""
    spec: RFTJobSpec
    """What is wanted."""
    status: RFTJobStatus | None = None
    """What is."""
