"""How an RFTJob trains: what its manifest states and its trainer reads, in the same classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.model import Location, Model, Rule
from rft_api.quantities import Between, Decimal, Integer
from rft_api.sources import Data, DataSource, Source, WarmupSource, distinct_names

DEFAULT_LORA_RANK = 16

Algorithm = Literal["GRPO", "DrGRPO", "DAPO", "BNPO", "CISPO", "SAPO", "LUSPO", "VESPO", "GSPO"]


class Warmup(Model):
    """A supervised stage before reinforcement learning."""

    rules: ClassVar[tuple[Rule, ...]] = (distinct_names("data"),)

    data: Annotated[list[WarmupSource], Field(min_length=1, max_length=32)]
    """Sources of conversations to imitate."""
    epochs: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Passes over the data."""
    batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 16
    """Conversations per optimizer step, over all processes."""
    learning_rate: Annotated[Decimal, Between("0", "0.1", low_included=False)] = 2e-5
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
    learning_rate: Annotated[Decimal, Between("0", "0.1", low_included=False)] = 1e-5
    """Learning rate (AdamW)."""
    learning_rate_schedule: Literal["Constant", "Linear", "Cosine"] = "Constant"
    """How the learning rate moves from its value to 0 over the run, if at all."""
    maximum_gradient_norm: Annotated[Decimal, Between("0", "1000000", low_included=False)] = 1.0
    """Norm to which gradients are clipped."""
    max_prompt_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 1024
    """Prompts with more tokens are left out, counted and reported; never cut."""
    max_completion_tokens: Annotated[Integer, Field(ge=1, le=1048576)] = 512
    """Tokens after which a completion is cut off."""
    temperature: Annotated[Decimal, Between("0", "10", low_included=False)] = 1.0
    """Sampling temperature while training."""
    kl_coefficient: Annotated[Decimal, Between("0", "10")] = 0.0
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

    @property
    def effective_rank(self) -> int:
        """Rank of the adapter, or its default."""
        return self.rank or DEFAULT_LORA_RANK

    @property
    def effective_alpha(self) -> int:
        """Scale of the adapter, or its default."""
        return self.alpha or 2 * self.effective_rank


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
    deepspeed: DeepSpeed | None = None
    """DeepSpeed's settings; when absent, several processes train with ZeRO stage 2 and one without DeepSpeed."""
    rollouts: Rollouts = Rollouts()
    """What generates the completions."""

    @property
    def effective_processes_per_node(self) -> int:
        """Trainer processes of each pod: one for each GPU, or as many as are stated, or one."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Trainer processes of all pods."""
        return self.nodes * self.effective_processes_per_node

    @property
    def on_gpus(self) -> bool:
        """Whether the trainer computes on GPUs."""
        return self.gpus_per_node > 0

    @property
    def effective_deepspeed(self) -> DeepSpeed | None:
        """DeepSpeed's settings, or their default; None when the trainer does without DeepSpeed."""
        if self.deepspeed is None and self.world_size > 1:
            return DeepSpeed()
        return self.deepspeed


class Preflight(Model):
    """A check, before training, that this model can learn from this reward."""

    prompts: Annotated[Integer, Field(ge=1, le=4096)] = 32
    """Training prompts that are sampled and scored."""
    action: Literal["Fail", "Warn", "Skip"] = "Fail"
    """What to do when the verdict is that reinforcement learning cannot help: end the job, say so, or not check."""


class EarlyStopping(Model):
    """Ends training when validation stops improving."""

    patience: Annotated[Integer, Field(ge=1, le=1000)] = 5
    """Validations without an improvement after which training ends."""
    minimum_gain: Annotated[Decimal, Between("0", "1000000")] = 0.0
    """Validation reward by which the best so far has to be exceeded to count as an improvement."""


Split = Literal["train", "validation", "test", "warmup"]


@dataclass(frozen=True)
class SplitSource:
    """A source of a job, what it is used for, and where it stands."""

    split: Split
    """What it is used for."""
    location: Location
    """Its place in the spec, such as ("data", "train", 0)."""
    source: DataSource | WarmupSource
    """The source."""

    @property
    def label(self) -> str:
        """Split and name, which no two sources of a job share."""
        return f"{self.split}/{self.source.name}"


def split_sources(data: Data, warmup: Warmup | None) -> Iterator[SplitSource]:
    """Every source of a job: those of the training prompts first, those of the warm-up last."""
    splits: list[tuple[Split, Location, Sequence[DataSource | WarmupSource] | None]] = [
        ("train", ("data", "train"), data.train),
        ("validation", ("data", "validation"), data.validation),
        ("test", ("data", "test"), data.test),
        ("warmup", ("warmup", "data"), warmup.data if warmup else None),
    ]
    for split, location, sources in splits:
        for index, source in enumerate(sources or []):
            yield SplitSource(split, (*location, index), source)


def relocate(data: Data, warmup: Warmup | None, locate: Callable[[Source], str]) -> tuple[Data, Warmup | None]:
    """The same data at other addresses: `locate` tells the new address of each source."""

    def moved(sources: Sequence[Source] | None) -> list[Source] | None:
        return None if sources is None else [source.model_copy(update={"uri": locate(source)}) for source in sources]

    moved_data = data.model_copy(
        update={"train": moved(data.train), "validation": moved(data.validation), "test": moved(data.test)}
    )
    return moved_data, warmup and warmup.model_copy(update={"data": moved(warmup.data)})
