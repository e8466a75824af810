"""The RFTJob resource: model, data, rewards and how to train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.checkpoint_settings import Checkpoints
from rft_api.job_status import RFTJobStatus
from rft_api.model import Model, Rule
from rft_api.object_names import SERVICE_MESSAGE, NamesEndpoint, first_letter, is_service_name, trainer_service
from rft_api.quantities import AtLeast, Between, Boolean, Decimal, Duration, Integer, Name
from rft_api.resource import API_VERSION, Metadata, PodOverrides, SecretReference
from rft_api.sampling import EvaluationSettings, Sampling
from rft_api.sources import Data, Uri
from rft_api.trackers import Trackers
from rft_api.training import (
    Algorithm,
    EarlyStopping,
    Hyperparameters,
    Preflight,
    SplitSource,
    TrainerCompute,
    split_sources,
)
from rft_api.tuning import Tuning
from rft_api.warmup import Warmup


class ModelSource(Model):
    """A model."""

    uri: Uri
    """Address of the model: hf://OWNER/NAME or hf://OWNER/NAME@REVISION, s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in
    local runs, a path."""


class Compute(TrainerCompute):
    """The pods of the trainer, their processes and their GPUs."""

    gpu_resource: Annotated[str, Field(max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource that the pods request for their GPUs."""
    pod: PodOverrides | None = None
    """Settings of the trainer's pods that replace or extend the operator's."""

    def for_trainer(self) -> TrainerCompute:
        """Return the part that the trainer reads."""
        return TrainerCompute.model_construct(**{name: getattr(self, name) for name in TrainerCompute.model_fields})


class Output(Model):
    """Where the run writes its files."""

    uri: Uri
    """Address to which the run writes its files: s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in local runs, a folder."""


class Limits(Model):
    """Limits after which the job ends."""

    gpu_hours: Annotated[Decimal, Between("0", "1000000000", low_included=False)] | None = None
    """Number of GPU hours after which the job is stopped. Its checkpoints are kept."""
    deadline: Annotated[Duration, AtLeast("1s")] | None = None
    """Time after its start at which the job is stopped. Its checkpoints are kept."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """Number of times that the job is restarted after a failure that may be temporary. Disruptions of nodes do not
    count."""


class JobEndpoint(Model):
    """The InferenceEndpoint that is created when a job has succeeded."""

    name: Annotated[Name, NamesEndpoint()]
    """Name of the InferenceEndpoint and, in its API, of the tuned model."""
    base_endpoint: Annotated[Name, NamesEndpoint()] | None = None
    """Name of the InferenceEndpoint of the base model, whose server also serves the adapter. It is created if it does
    not exist. When absent, the tuned model gets a server of its own."""
    deletion_policy: Literal["Delete", "Keep"] = "Delete"
    """Whether the InferenceEndpoint is deleted together with the job."""
    checkpoints: Boolean = False
    """Whether the other checkpoints in the status are served by the same base endpoint, too, each by an
    InferenceEndpoint that is named after the first one and its step: NAME-step-20."""


_ADAPTER = "self.tuning.type == 'LoRA'"
_WITHOUT_SHADOWS = "size(self.shadowRewards) == 0"
_REINFORCED = "has(self.data.train)"
_PLAIN_UPDATE = "[self.hyperparameters].all(h, !has(h.importanceSampling) && !has(h.scaleRewards))"


class RFTJobSpec(Model):
    """The desired state of a job: what is trained, on which data, with which rewards."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.compute.precision != 'BFloat16'",
            message="compute.precision BFloat16 is for tuning type LoRA; all weights are trained in Float32",
            holds=lambda spec: spec.tuning.type == "LoRA" or spec.compute.precision != "BFloat16",
            unless=_ADAPTER,
        ),
        Rule(
            cel="!has(self.endpoint) || !has(self.endpoint.baseEndpoint)",
            message="endpoint.baseEndpoint serves LoRA adapters; with tuning type Full leave it out",
            holds=lambda spec: (
                spec.endpoint is None or spec.endpoint.base_endpoint is None or spec.tuning.type == "LoRA"
            ),
            unless=_ADAPTER,
        ),
        Rule(
            cel="!has(self.endpoint) || !self.endpoint.checkpoints",
            message="endpoint.checkpoints serves LoRA adapters; with tuning type Full leave it out",
            holds=lambda spec: spec.endpoint is None or not spec.endpoint.checkpoints or spec.tuning.type == "LoRA",
            unless=_ADAPTER,
        ),
        Rule(
            cel="self.shadowRewards.all(a, self.shadowRewards.exists_one(b, b == a))",
            message="shadowRewards: every name may appear only once",
            holds=lambda spec: len(set(spec.shadow_rewards)) == len(spec.shadow_rewards),
            unless=_WITHOUT_SHADOWS,
        ),
        Rule(
            cel="!has(self.data.train) || !self.data.train.exists(s, s.reward in self.shadowRewards)",
            message="shadowRewards: a reward that is trained on is recorded anyway; remove it from shadowRewards",
            holds=lambda spec: not {source.reward for source in spec.data.train or []} & set(spec.shadow_rewards),
            unless=_WITHOUT_SHADOWS,
        ),
        Rule(
            cel="!has(self.hyperparameters.importanceSampling) || (has(self.compute.rollouts.engine) ? "
            "self.compute.rollouts.engine == 'vLLM' : self.compute.gpusPerNode > 0)",
            message="hyperparameters.importanceSampling belongs to compute.rollouts.engine vLLM; remove it or set the "
            "engine",
            holds=lambda spec: (
                spec.hyperparameters.importance_sampling is None or spec.compute.rollout_engine == "vLLM"
            ),
            unless=_PLAIN_UPDATE,
        ),
        Rule(
            # Its loss has a weight for each sequence of its own.
            cel="self.algorithm != 'VESPO' || !has(self.hyperparameters.importanceSampling) || "
            "self.hyperparameters.importanceSampling.mode.startsWith('Token')",
            message="algorithm VESPO needs hyperparameters.importanceSampling.mode TokenTruncate or TokenMask",
            holds=lambda spec: (
                spec.algorithm != "VESPO" or spec.hyperparameters.effective_importance_sampling.mode.startswith("Token")
            ),
            unless=_PLAIN_UPDATE,
        ),
        Rule(
            cel="self.algorithm != 'DrGRPO' || !has(self.hyperparameters.scaleRewards) || "
            "self.hyperparameters.scaleRewards == 'None'",
            message="algorithm DrGRPO is defined without scaling: remove hyperparameters.scaleRewards, or set None; "
            "for another scale use another algorithm, such as GRPO",
            holds=lambda spec: spec.algorithm != "DrGRPO" or spec.hyperparameters.scale_rewards in (None, "None"),
            unless=_PLAIN_UPDATE,
        ),
        Rule(
            # TRL takes every completion without an EOS token for truncated.
            cel="!has(self.sampling.stop) || !self.hyperparameters.maskTruncatedCompletions",
            message="sampling.stop and hyperparameters.maskTruncatedCompletions exclude each other: a completion that "
            "ends with a stop string has no EOS token, and would be masked",
            holds=lambda spec: not spec.sampling.stop_strings or not spec.hyperparameters.mask_truncated_completions,
        ),
        Rule(
            cel="has(self.warmup)",
            message="data.train (prompts whose completions a reward scores) or warmup (conversations to imitate) is "
            "required",
            holds=lambda spec: bool(spec.data.train) or spec.warmup is not None,
            unless=_REINFORCED,
        ),
        Rule(
            cel="!has(self.data.validation) && !has(self.data.validationFraction)",
            message="data.validation and data.validationFraction choose a checkpoint of reinforcement learning, which "
            "needs data.train; the loss of a job without it is measured on warmup.validation",
            holds=lambda spec: (
                bool(spec.data.train) or (spec.data.validation is None and spec.data.validation_fraction is None)
            ),
            unless=_REINFORCED,
        ),
        Rule(
            cel="!has(self.earlyStopping) && !has(self.hyperparameters.maxSteps) && size(self.shadowRewards) == 0 && "
            "(!has(self.endpoint) || !self.endpoint.checkpoints)",
            message="earlyStopping, hyperparameters.maxSteps, shadowRewards and endpoint.checkpoints belong to "
            "reinforcement learning; remove them, or add data.train",
            holds=lambda spec: (
                bool(spec.data.train)
                or (
                    spec.early_stopping is None
                    and spec.hyperparameters.max_steps is None
                    and not spec.shadow_rewards
                    and not (spec.endpoint and spec.endpoint.checkpoints)
                )
            ),
            unless=_REINFORCED,
        ),
        Rule(
            cel="!has(self.warmup) || (!has(self.warmup.validation) && !has(self.warmup.validationFraction))",
            message="warmup.validation and warmup.validationFraction measure the result of a job without data.train; "
            "remove them: data.validation and data.test measure this one",
            holds=lambda spec: (
                not spec.data.train
                or spec.warmup is None
                or (spec.warmup.validation is None and spec.warmup.validation_fraction is None)
            ),
            unless="!has(self.data.train)",
        ),
    )

    model: ModelSource
    """The base model, from which training starts."""
    data: Data = Data()
    """The prompts to train and to evaluate on."""
    shadow_rewards: Annotated[list[Name], Field(max_length=8)] = []
    """Names of RewardFunctions that also score every completion. Their scores are recorded and compared with the
    reward, but never trained on."""
    warmup: Warmup | None = None
    """A supervised stage before reinforcement learning; without data.train, all that the job does. When absent, there
    is none."""
    algorithm: Algorithm = "GRPO"
    """The policy-gradient loss, by the name that the literature uses."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Hyperparameters of reinforcement learning."""
    sampling: Sampling = Sampling()
    """System prompt, variables of the chat template and stop strings, which hold in training and every evaluation."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How held-out prompts are completed: in the baseline, in validations, and for the table before and after."""
    tuning: Tuning = Tuning()
    """Which weights are trained: an adapter or the whole model."""
    compute: Compute = Compute()
    """The pods of the trainer, their processes and their GPUs."""
    output: Output
    """Where the run writes its files."""
    checkpoints: Checkpoints = Checkpoints()
    """Which checkpoints the run writes and keeps."""
    trackers: Trackers = []
    """Products to which the run sends its curves, configuration, results and samples. A tracker that does not answer
    never stops a run."""
    credentials: SecretReference | None = None
    """Secret with the credentials for s3:// and hf:// addresses, and for trackers."""
    preflight: Preflight = Preflight()
    """A check, before training, of whether the model can learn from the reward."""
    limits: Limits = Limits()
    """Limits after which the job ends."""
    early_stopping: EarlyStopping | None = None
    """Ends training when the validation reward stops improving. When absent, training does not end early."""
    suspend: Boolean = False
    """When true, the job saves a checkpoint and its pods are stopped. Set it back to false to resume the job."""
    queue_name: Name | None = None
    """Name of the LocalQueue of Kueue that admits the job."""
    endpoint: JobEndpoint | None = None
    """The InferenceEndpoint that is created when the job has succeeded. When absent, none is created."""

    def sources(self) -> Iterator[SplitSource]:
        """Return all sources of prompts and conversations."""
        return split_sources(self.data, self.warmup)


class RFTJob(Model):
    """An RFTJob fine-tunes a model by reinforcement learning."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            # A single pod has no Service.
            cel=f"{first_letter('self.metadata.name')} || self.spec.compute.nodes == 1",
            message=f"with several nodes (compute.nodes) {SERVICE_MESSAGE}",
            holds=lambda job: job.spec.compute.nodes == 1 or is_service_name(trainer_service(job.metadata.name)),
            places=lambda _: [("metadata", "name")],
        ),
    )

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Version of the API: rft.dev/v1alpha1."""
    kind: Literal["RFTJob"] = "RFTJob"
    """Kind of the resource: RFTJob."""
    metadata: Metadata
    """Standard object metadata."""
    spec: RFTJobSpec
    """The desired state of the job."""
    status: RFTJobStatus | None = None
    """The observed state of the job."""
