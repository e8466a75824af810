"""The RFTJob resource: model, data, rewards and how to train."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.invocation_log import DataFormat, InvocationLog
from rft_api.model import Model, Rule
from rft_api.quantities import (
    Between,
    Boolean,
    DecimalString,
    Duration,
    Integer,
    Name,
    SignedDecimalString,
    at_most_one_of,
)
from rft_api.resource import API_VERSION, Conditions, Metadata, PodOverrides, SecretReference, Timestamp

Uri = Annotated[str, Field(min_length=1, max_length=1024)]

Algorithm = Literal["GRPO", "DrGRPO", "DAPO", "BNPO", "CISPO", "SAPO", "LUSPO", "VESPO", "GSPO"]


class ModelSource(Model):
    """Where model weights are."""

    uri: Uri
    """hf://OWNER/NAME, s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in local runs, a path."""


_FORMAT_RULE = Rule(
    cel="!has(self.invocationLog) || self.format == 'BedrockInvocationLog'",
    message="invocationLog belongs to format BedrockInvocationLog; remove it or set the format",
    holds=lambda source: source.invocation_log is None or source.format == "BedrockInvocationLog",
)


class DataSource(Model):
    """Prompts, and the reward that scores their completions."""

    rules: ClassVar[tuple[Rule, ...]] = (_FORMAT_RULE,)

    name: Name
    """Name of the source; labels its rows in metrics and rollouts."""
    uri: Uri
    """s3://BUCKET/KEY, configmap://NAME/KEY, pvc://CLAIM/PATH, or, in local runs, a path; for logs also a prefix or a
    folder."""
    format: DataFormat = "OpenAIChat"
    """OpenAIChat: a JSONL file in OpenAI chat format; BedrockInvocationLog: Amazon Bedrock's model invocation logs."""
    invocation_log: InvocationLog | None = None
    """Which records of invocation logs are taken, and how; all when absent."""
    reward: Name
    """Name of the RewardFunction, in the job's namespace, that scores this source's completions."""
    weight: Annotated[DecimalString, Between("0", "1000000", low_included=False)] = "1"
    """Share of this source in the mixture, relative to the others' weights."""


class WarmupSource(Model):
    """Conversations that end with the assistant's answer to imitate."""

    rules: ClassVar[tuple[Rule, ...]] = (_FORMAT_RULE,)

    name: Name
    """Name of the source."""
    uri: Uri
    """s3://BUCKET/KEY, configmap://NAME/KEY, pvc://CLAIM/PATH, or, in local runs, a path; for logs also a prefix or a
    folder."""
    format: DataFormat = "OpenAIChat"
    """OpenAIChat: a JSONL file in OpenAI chat format; BedrockInvocationLog: the logged answers are imitated."""
    invocation_log: InvocationLog | None = None
    """Which records of invocation logs are taken, and how; all when absent."""


Sources = Annotated[list[DataSource], Field(min_length=1, max_length=32)]


def _names_differ(sources: list[DataSource] | list[WarmupSource] | None) -> bool:
    return sources is None or len({source.name for source in sources}) == len(sources)


def _distinct(field: str) -> Rule:
    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(a, self.{field}.exists_one(b, b.name == a.name))",
        message=f"{field}: every source needs a name of its own",
        holds=lambda model: _names_differ(getattr(model, field)),
    )


class Data(Model):
    """Prompts to train on, to choose the checkpoint by, and to report the result on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one_of("validation", "validation_fraction"),
        _distinct("train"),
        _distinct("validation"),
        _distinct("test"),
    )

    train: Sources
    """Sources of training prompts, mixed by weight."""
    validation: Sources | None = None
    """Sources of the prompts that choose the best checkpoint."""
    validation_fraction: Annotated[DecimalString, Between("0.001", "0.5")] | None = None
    """Share of the training prompts set aside for validation; "0.1" when validation is absent too."""
    test: Sources | None = None
    """Sources of the prompts of the before/after table, seen by nothing else; the validation prompts when absent."""


class Warmup(Model):
    """A supervised stage before reinforcement learning."""

    rules: ClassVar[tuple[Rule, ...]] = (_distinct("data"),)

    data: Annotated[list[WarmupSource], Field(min_length=1, max_length=32)]
    """Sources of conversations to imitate."""
    epochs: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Passes over the data."""
    batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 16
    """Conversations per optimizer step, over all processes."""
    learning_rate: Annotated[DecimalString, Between("0", "0.1", low_included=False)] = "2e-5"
    """Peak learning rate of the stage; it decays linearly to 0."""


class Hyperparameters(Model):
    """How to train."""

    epochs: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Passes over the training prompts."""
    max_steps: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Optimizer steps after which training ends even when epochs are left."""
    batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Prompts per optimizer step, over all processes."""
    samples_per_prompt: Annotated[Integer, Field(ge=2, le=128)] = 8
    """Completions sampled for each prompt: the group that its advantages are computed in."""
    micro_batch_size: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Completions per forward and backward pass on each process; lower it when memory runs out.
    When absent, the largest divisor of a process's share that is at most 8."""
    learning_rate: Annotated[DecimalString, Between("0", "0.1", low_included=False)] = "1e-5"
    """Learning rate (AdamW)."""
    learning_rate_schedule: Literal["Constant", "Linear", "Cosine"] = "Constant"
    """How the learning rate moves from its value to 0 over the run, if at all."""
    maximum_gradient_norm: Annotated[DecimalString, Between("0", "1000000", low_included=False)] = "1"
    """Norm to which gradients are clipped."""
    max_prompt_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 1024
    """Prompts with more tokens are left out, counted and reported; never cut."""
    max_completion_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 512
    """Tokens after which a completion is cut off."""
    temperature: Annotated[DecimalString, Between("0", "10", low_included=False)] = "1"
    """Sampling temperature while training."""
    kl_coefficient: Annotated[DecimalString, Between("0", "10")] = "0"
    """Weight of the KL divergence from the model that RL starts from (after a warm-up) in the loss; 0 needs none."""
    eval_interval: Annotated[Integer, Field(ge=1, le=1000000)] = 10
    """Steps between validations; a checkpoint is written at each."""
    seed: Annotated[Integer, Field(ge=0, le=2147483647)] = 0
    """Seed of everything random."""


class Tuning(Model):
    """Which weights are trained."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type == 'LoRA' || (!has(self.rank) && !has(self.alpha) && !has(self.lastLayers))",
            message="rank, alpha and lastLayers belong to type LoRA; remove them or set type: LoRA",
            holds=lambda tuning: (
                tuning.type == "LoRA" or (tuning.rank is None and tuning.alpha is None and tuning.last_layers is None)
            ),
        ),
    )

    type: Literal["LoRA", "Full"] = "LoRA"
    """LoRA trains a small adapter on all linear layers, Full trains every weight."""
    rank: Annotated[Integer, Field(ge=1, le=512)] | None = None
    """Rank of the adapter; 16 when absent."""
    alpha: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Scale of the adapter (its output is multiplied by alpha / rank); twice the rank when absent."""
    last_layers: Annotated[Integer, Field(ge=1, le=1000)] | None = None
    """Adapt only this many of the last layers, which makes the backward pass shorter; all when absent."""


class DeepSpeed(Model):
    """How DeepSpeed spreads the training state over processes (ZeRO)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.offload == 'None' || self.zeroStage >= 2",
            message="offload needs zeroStage 2 or 3",
            holds=lambda deepspeed: deepspeed.offload == "None" or deepspeed.zero_stage >= 2,
        ),
    )

    zero_stage: Annotated[Integer, Field(ge=0, le=3)] = 2
    """0: nothing is split; 1: optimizer state; 2: and gradients; 3: and weights."""
    offload: Literal["None", "Optimizer"] = "None"
    """Optimizer keeps the optimizer's state in host memory."""


class Rollouts(Model):
    """What generates the completions while training."""

    engine: Literal["Transformers", "vLLM"] = "Transformers"
    """Transformers runs anywhere; vLLM is faster on GPUs and shares them with the trainer."""


class Compute(Model):
    """The machines of the trainer."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.processesPerNode) || self.gpusPerNode == 0 || self.processesPerNode == self.gpusPerNode",
            message="processesPerNode is for CPU training (gpusPerNode: 0); on GPUs there is one process per GPU",
            holds=lambda compute: (
                compute.processes_per_node is None
                or compute.gpus_per_node == 0
                or compute.processes_per_node == compute.gpus_per_node
            ),
        ),
        Rule(
            cel="self.gpusPerNode > 0 || !has(self.rollouts) || self.rollouts.engine == 'Transformers'",
            message="rollouts.engine vLLM needs GPUs: set gpusPerNode, or engine: Transformers",
            holds=lambda compute: compute.gpus_per_node > 0 or compute.rollouts.engine == "Transformers",
        ),
    )

    nodes: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """Trainer pods."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 1
    """GPUs, and trainer processes, of each pod; 0 trains on CPUs."""
    processes_per_node: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Trainer processes of each pod when gpusPerNode is 0; 1 when absent."""
    gpu_resource: Annotated[str, Field(max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource that GPUs are requested as."""
    deepspeed: DeepSpeed | None = None
    """DeepSpeed's settings; when absent, several processes train with ZeRO stage 2 and one without DeepSpeed."""
    rollouts: Rollouts = Rollouts()
    """What generates the completions."""
    pod: PodOverrides | None = None
    """Changes to the trainer's pods."""


class Output(Model):
    """Where the run's files go."""

    uri: Uri
    """s3://BUCKET/PREFIX, pvc://CLAIM/PATH, or, in local runs, a folder."""


class Preflight(Model):
    """A check, before training, that this model can learn from this reward."""

    prompts: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Training prompts that are sampled and scored."""
    action: Literal["Fail", "Warn", "Skip"] = "Fail"
    """What to do when the verdict is that reinforcement learning cannot help: end the job, say so, or not check."""


class Limits(Model):
    """When to give up."""

    gpu_hours: Annotated[DecimalString, Between("0", "1000000000", low_included=False)] | None = None
    """GPU hours after which the job is stopped; its best checkpoint stays."""
    deadline: Duration | None = None
    """Time from the start after which the job is stopped; its best checkpoint stays."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 3
    """Restarts after failures that may pass; node disruptions are not counted."""


class EarlyStopping(Model):
    """Ends training when validation stops improving."""

    patience: Annotated[Integer, Field(ge=1, le=1000)] = 5
    """Validations without an improvement after which training ends."""
    minimum_gain: Annotated[DecimalString, Between("0", "1000000")] = "0"
    """Validation reward by which the best so far has to be exceeded to count as an improvement."""


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
