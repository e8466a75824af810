"""How an RFTJob trains: what its manifest states and its trainer reads, in the same classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.model import Location, Model, Rule
from rft_api.quantities import AtLeast, Between, Boolean, Decimal, Integer, Quantity, at_most_one_of
from rft_api.rollouts import ImportanceSampling, RolloutEngine, Rollouts
from rft_api.sources import Data, DataSource, Source, WarmupSource
from rft_api.warmup import Warmup

Precision = Literal["Auto", "BFloat16", "Float32"]
Algorithm = Literal["GRPO", "DrGRPO", "DAPO", "BNPO", "CISPO", "SAPO", "LUSPO", "VESPO", "GSPO"]
RewardScale = Literal["Group", "Batch", "None"]


def default_scale(algorithm: Algorithm) -> RewardScale:
    """Return what an algorithm scales advantages by, unless the manifest states it."""
    return "None" if algorithm == "DrGRPO" else "Group"


DEFAULT_TOKENS_PER_MICRO_BATCH = 8192


class Hyperparameters(Model):
    """Hyperparameters of reinforcement learning."""

    rules: ClassVar[tuple[Rule, ...]] = (at_most_one_of("tokens_per_micro_batch", "micro_batch_size"),)

    epochs: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Number of passes over the training prompts."""
    max_steps: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Number of optimizer steps after which training ends, even if epochs are left."""
    batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Number of prompts per optimizer step, summed over all processes."""
    samples_per_prompt: Annotated[Integer, Field(ge=2, le=128)] = 8
    """Number of completions that are sampled for each prompt. Together they are the group in which advantages are
    computed."""
    tokens_per_micro_batch: Annotated[Integer, Field(ge=1, le=16777216)] | None = None
    """Number of tokens that each process computes in one forward and backward pass. Lower this number when memory runs
    out. When several sequences begin with the same tokens, such as the completions of one prompt, these tokens are
    computed and counted once. A sequence that is longer than this number is computed in a pass of its own. The default
    is 8192, unless microBatchSize is set."""
    micro_batch_size: Annotated[Integer, Field(ge=1, le=4096)] | None = None
    """Number of completions that each process computes in one forward and backward pass. They are drawn at random, as
    TRL splits a step. This number has to divide the number of completions that each process handles per step. With it,
    completions of the same prompt are rarely in the same pass, so their prompt is computed several times, and
    tokensPerMicroBatch is faster."""
    learning_rate: Annotated[Decimal, Between("0", "0.1", low_included=False)] = 1e-5
    """Learning rate of the optimizer, AdamW."""
    learning_rate_schedule: Literal["Constant", "Linear", "Cosine"] = "Constant"
    """Schedule of the learning rate. Constant keeps it; Linear and Cosine lower it to 0 over the run."""
    warmup_ratio: Annotated[Decimal, Between("0", "1")] = 0.0
    """Share of the steps in which the learning rate rises linearly from 0, in the first step, to learningRate. After
    these steps the learning rate follows the schedule. This field does not concern the supervised stage warmup, whose
    learning rate does not rise."""
    weight_decay: Annotated[Decimal, Between("0", "1")] = 0.0
    """Weight decay of AdamW, also in the stage warmup."""
    adam_beta1: Annotated[Decimal, Between("0", "1", high_included=False)] = 0.9
    """Decay of AdamW's mean of gradients, also in the stage warmup."""
    adam_beta2: Annotated[Decimal, Between("0", "1", high_included=False)] = 0.999
    """Decay of AdamW's mean of squared gradients, also in the stage warmup."""
    adam_epsilon: Annotated[Decimal, Between("0", "1", low_included=False)] = 1e-8
    """Number that AdamW adds to the root of the mean of squared gradients before it divides by it, also in the stage
    warmup."""
    maximum_gradient_norm: Annotated[Decimal, Between("0", "1000000", low_included=False)] = 1.0
    """Largest norm of the gradient. Larger gradients are clipped to it."""
    max_prompt_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 1024
    """Largest number of tokens in a prompt. Longer prompts are left out, counted and reported; they are never
    truncated."""
    max_completion_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 512
    """Largest number of tokens in a completion. Longer completions are truncated."""
    temperature: Annotated[Decimal, Between("0", "10", low_included=False)] = 1.0
    """Temperature at which training completions are sampled."""
    kl_coefficient: Annotated[Decimal, Between("0", "10")] = 0.0
    """Weight of the KL divergence in the loss. The divergence is that from the model with which reinforcement learning
    starts, which is the model after the warm-up if there is one. With 0 the divergence is not computed."""
    entropy_coefficient: Annotated[Decimal, Between("0", "10")] = 0.0
    """Weight, in the loss, of the entropy of the policy, which is subtracted: the mean over the tokens of completions,
    in nats, at temperature. A small weight, such as 0.001, keeps samples from becoming all alike."""
    scale_rewards: RewardScale | None = None
    """How advantages are scaled. The advantage of a completion is its reward minus the mean reward of its group. Group
    divides it by the standard deviation of the rewards of the group, Batch divides it by that of all rewards of the
    step, and None does not divide it. The default is Group. With the algorithm DrGRPO, which is defined without
    scaling, the default is None."""
    mask_truncated_completions: Boolean = False
    """Whether the loss leaves out completions that were truncated at maxCompletionTokens. Their rewards still count in
    the mean of their group. A step whose completions are all truncated changes no weights, and the log says so."""
    importance_sampling: ImportanceSampling | None = None
    """How the update corrects the small differences between the probabilities that vLLM computes and those that the
    trainer computes. The default is mode TokenTruncate with cap 2. With the engine InProcess the trainer samples the
    completions itself, so there is nothing to correct."""
    eval_interval: Annotated[Integer, Field(ge=1, le=1000000)] = 10
    """Number of optimizer steps between two validations. A checkpoint is written at each validation, unless
    checkpoints.interval is set."""
    seed: Annotated[Integer, Field(ge=0, le=2147483647)] = 0
    """Seed of all random numbers of the run."""

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of a prompt and its completion."""
        return self.max_prompt_tokens + self.max_completion_tokens

    @property
    def effective_importance_sampling(self) -> ImportanceSampling:
        """How rollouts of vLLM are corrected, or the default."""
        return self.importance_sampling or ImportanceSampling()

    @property
    def effective_tokens_per_micro_batch(self) -> int | None:
        """Number of tokens per pass, or its default; None where passes have a stated number of completions."""
        if self.micro_batch_size is not None:
            return None
        return self.tokens_per_micro_batch or DEFAULT_TOKENS_PER_MICRO_BATCH


class DeepSpeed(Model):
    """How DeepSpeed partitions the state of training over the processes (ZeRO)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.offload == 'None' || self.zeroStage >= 2",
            message="offload needs zeroStage 2 or 3",
            holds=lambda deepspeed: deepspeed.offload == "None" or deepspeed.zero_stage >= 2,
        ),
    )

    zero_stage: Annotated[Integer, Field(ge=0, le=3)] = 2
    """Stage of ZeRO. Stage 0 partitions nothing, stage 1 the state of the optimizer, stage 2 also the gradients, stage
    3 also the weights."""
    offload: Literal["None", "Optimizer"] = "None"
    """What is kept in the memory of the host instead of the memory of the GPU. Optimizer keeps the state of the
    optimizer there; None keeps everything on the GPU."""


_PLAIN_ROLLOUTS = (
    "[self.rollouts].all(r, r.placement == 'Shared' && r.overlap == 0 && !has(r.servers) && !has(r.gpusPerServer) && "
    "!has(r.memoryShare))"
)


class TrainerCompute(Model):
    """The processes of the trainer and their devices: the part of `spec.compute` that the trainer reads."""

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
            cel="[self.rollouts].all(r, (r.placement == 'Shared' && !has(r.servers) && !has(r.gpusPerServer) && "
            "!has(r.memoryShare)) || (has(r.engine) ? r.engine == 'vLLM' : self.gpusPerNode > 0))",
            message="rollouts.placement, servers, gpusPerServer and memoryShare belong to engine vLLM; remove them or "
            "set rollouts.engine: vLLM",
            holds=lambda compute: compute.rollout_engine == "vLLM" or not compute.rollouts.states_servers,
            unless=_PLAIN_ROLLOUTS,
        ),
        Rule(
            cel="self.gpusPerNode > 0 || [self.rollouts].all(r, r.placement == 'Shared' && !has(r.gpusPerServer) && "
            "!has(r.memoryShare))",
            message="rollouts.placement Dedicated, gpusPerServer and memoryShare need GPUs: set gpusPerNode, or remove "
            "them",
            holds=lambda compute: (
                compute.gpus_per_node > 0
                or (
                    compute.rollouts.placement == "Shared"
                    and compute.rollouts.gpus_per_server is None
                    and compute.rollouts.memory_share is None
                )
            ),
            unless=_PLAIN_ROLLOUTS,
        ),
        Rule(
            cel="!has(self.rollouts.servers) || self.gpusPerNode == 0 || self.rollouts.placement == 'Dedicated'",
            message="rollouts.servers is for placement Dedicated and for CPUs; with placement Shared, servers cover "
            "the GPUs of the trainer",
            holds=lambda compute: (
                compute.gpus_per_node == 0
                or compute.rollouts.placement == "Dedicated"
                or compute.rollouts.servers is None
            ),
            unless=_PLAIN_ROLLOUTS,
        ),
        Rule(
            cel="!has(self.rollouts.gpusPerServer) || self.rollouts.placement == 'Dedicated' || "
            "self.gpusPerNode % self.rollouts.gpusPerServer == 0",
            message="rollouts.gpusPerServer has to divide gpusPerNode with placement Shared",
            holds=lambda compute: (
                compute.rollouts.placement == "Dedicated"
                or compute.gpus_per_node % compute.rollouts.effective_gpus_per_server == 0
            ),
            unless=_PLAIN_ROLLOUTS,
        ),
        Rule(
            cel="self.rollouts.overlap == 0 || "
            "((has(self.rollouts.engine) ? self.rollouts.engine == 'vLLM' : self.gpusPerNode > 0) && "
            "(self.gpusPerNode == 0 || self.rollouts.placement == 'Dedicated'))",
            message="rollouts.overlap needs servers that compute beside the trainer: set rollouts.engine: vLLM and, "
            "with GPUs, rollouts.placement: Dedicated",
            holds=lambda compute: (
                compute.rollouts.overlap == 0
                or (
                    compute.rollout_engine == "vLLM"
                    and (compute.gpus_per_node == 0 or compute.rollouts.placement == "Dedicated")
                )
            ),
            unless=_PLAIN_ROLLOUTS,
        ),
        Rule(
            cel="self.precision == 'Auto' || self.gpusPerNode == 0",
            message="precision is for CPU training (gpusPerNode: 0); on GPUs the trainer computes in bfloat16",
            holds=lambda compute: compute.gpus_per_node == 0 or compute.precision == "Auto",
        ),
        Rule(
            cel="!has(self.gpuMemory) || self.gpusPerNode > 0",
            message="gpuMemory is the memory of a GPU; with gpusPerNode: 0 leave it out",
            holds=lambda compute: compute.gpus_per_node > 0 or compute.gpu_memory is None,
        ),
        Rule(
            cel="!self.ignoreMemoryPlan || self.gpusPerNode > 0",
            message="ignoreMemoryPlan is for GPUs, whose memory is planned; with gpusPerNode: 0 leave it out",
            holds=lambda compute: compute.gpus_per_node > 0 or not compute.ignore_memory_plan,
        ),
    )

    nodes: Annotated[Integer, Field(ge=1, le=1024)] = 1
    """Number of trainer pods."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 1
    """Number of GPUs of each pod. There is one trainer process for each GPU. With 0 the job trains on CPUs."""
    processes_per_node: Annotated[Integer, Field(ge=1, le=64)] | None = None
    """Number of trainer processes of each pod when gpusPerNode is 0. The default is 1."""
    deepspeed: DeepSpeed | None = None
    """Settings of DeepSpeed. By default, several processes train with ZeRO stage 2, and a single process trains without
    DeepSpeed."""
    gpu_memory: Annotated[Quantity, AtLeast("1Gi")] | None = None
    """Memory of each GPU, such as 80Gi. The plan of the job's memory is compared with it. Without this field, the
    operator takes the memory from a label of the nodes, whose name is that of gpuResource with the suffix .memory, such
    as nvidia.com/gpu.memory. When the job has its GPUs, the trainer asks its own GPU."""
    ignore_memory_plan: Boolean = False
    """Whether the job trains even if its planned memory exceeds that of the GPUs. By default such a job ends before it
    gets GPUs, or at the latest before the model's weights are read, and a message says which fields to lower."""
    precision: Precision = "Auto"
    """Precision in which CPUs compute a model with a LoRA adapter. Auto uses the precision of the model's files where
    the processor has instructions for bfloat16, and Float32 elsewhere, because emulating bfloat16 is several times
    slower. With tuning type Full, weights are always trained in Float32."""
    gradient_checkpointing: Boolean | None = None
    """Whether the update keeps only the input of each layer, and computes the rest of its activations again for the
    backward pass. It takes less memory and more time, with the same results. The default is true on GPUs and false on
    CPUs."""
    rollouts: Rollouts = Rollouts()
    """How completions are generated, for training and for every evaluation."""

    @property
    def effective_processes_per_node(self) -> int:
        """Number of trainer processes of each pod: one per GPU; on CPUs as many as the manifest states, or one."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Number of trainer processes of all pods."""
        return self.nodes * self.effective_processes_per_node

    @property
    def on_gpus(self) -> bool:
        """Whether the trainer computes on GPUs."""
        return self.gpus_per_node > 0

    @property
    def effective_gradient_checkpointing(self) -> bool:
        """Whether layers keep only their inputs, or the default."""
        return self.on_gpus if self.gradient_checkpointing is None else self.gradient_checkpointing

    @property
    def rollout_engine(self) -> RolloutEngine:
        """What generates the completions, or its default."""
        return self.rollouts.engine or ("vLLM" if self.on_gpus else "InProcess")

    @property
    def servers_per_node(self) -> int:
        """Number of vLLM servers of each pod."""
        if self.rollout_engine == "InProcess":
            return 0
        if self.on_gpus and self.rollouts.placement == "Shared":
            return self.gpus_per_node // self.rollouts.effective_gpus_per_server
        return self.rollouts.effective_servers

    @property
    def pod_gpus(self) -> int:
        """Number of GPUs of each pod: those of the trainer, and those that vLLM servers have for themselves."""
        if self.rollouts.placement == "Shared":
            return self.gpus_per_node
        return self.gpus_per_node + self.servers_per_node * self.rollouts.effective_gpus_per_server

    @property
    def effective_deepspeed(self) -> DeepSpeed | None:
        """Settings of DeepSpeed, or their default; None when the trainer runs without DeepSpeed."""
        if self.deepspeed is None and self.world_size > 1:
            return DeepSpeed()
        return self.deepspeed


class Preflight(Model):
    """A check, before training, of whether the model can learn from the reward."""

    prompts: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Number of training prompts whose completions are sampled and scored."""
    action: Literal["Fail", "Warn", "Skip"] = "Fail"
    """What happens when the check finds that the model cannot learn from the reward. Fail ends the job, and Warn
    continues with a warning. Skip does not check at all."""


class EarlyStopping(Model):
    """When training ends because the validation reward has stopped improving."""

    patience: Annotated[Integer, Field(ge=1, le=1000)] = 5
    """Number of validations in a row without an improvement after which training ends."""
    minimum_gain: Annotated[Decimal, Between("0", "1000000")] = 0.0
    """Amount by which a validation reward has to exceed the best one so far to count as an improvement."""


Split = Literal["train", "validation", "test", "warmup", "warmupValidation"]


@dataclass(frozen=True)
class SplitSource:
    """A source of a job, with its split and its place in the spec."""

    split: Split
    """What the source is used for."""
    location: Location
    """Its place in the spec, such as ("data", "train", 0)."""
    source: DataSource | WarmupSource
    """The source."""

    @property
    def label(self) -> str:
        """Split and name, which no two sources of a job share."""
        return f"{self.split}/{self.source.name}"


def split_sources(data: Data, warmup: Warmup | None) -> Iterator[SplitSource]:
    """Yield every source of a job: those of the training prompts first, those of the warm-up last."""
    splits: list[tuple[Split, Location, Sequence[DataSource | WarmupSource] | None]] = [
        ("train", ("data", "train"), data.train),
        ("validation", ("data", "validation"), data.validation),
        ("test", ("data", "test"), data.test),
        ("warmup", ("warmup", "data"), warmup.data if warmup else None),
        ("warmupValidation", ("warmup", "validation"), warmup.validation if warmup else None),
    ]
    for split, location, sources in splits:
        for index, source in enumerate(sources or []):
            yield SplitSource(split, (*location, index), source)


def relocate(data: Data, warmup: Warmup | None, locate: Callable[[Source], str]) -> tuple[Data, Warmup | None]:
    """Return the same data at other addresses; `locate` returns the new address of a source."""

    def moved(sources: Sequence[Source] | None) -> list[Source] | None:
        return None if sources is None else [source.model_copy(update={"uri": locate(source)}) for source in sources]

    moved_data = data.model_copy(
        update={"train": moved(data.train), "validation": moved(data.validation), "test": moved(data.test)}
    )
    return moved_data, warmup and warmup.model_copy(
        update={"data": moved(warmup.data), "validation": moved(warmup.validation)}
    )
