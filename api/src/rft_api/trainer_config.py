"""The trainer's configuration: the contents of `job.json`."""

from __future__ import annotations

from typing import Literal

from rft_api.invocation_log import InvocationLog
from rft_api.model import Model
from rft_api.rft_job import Algorithm


class SourceConfig(Model):
    """A JSONL file, or invocation logs, and what belongs to it."""

    name: str
    """Name of the source."""
    path: str
    """File to read; of invocation logs also a folder."""
    invocation_log: InvocationLog | None = None
    """How invocation logs are read; a file in OpenAI chat format when absent."""
    reward: str | None = None
    """Name of the reward that scores it; none for conversations to imitate."""
    weight: float = 1.0
    """Share in the mixture, relative to the others'."""


class RewardTarget(Model):
    """A reward server and how to reach it."""

    url: str
    """Base URL of the server."""
    token_file: str | None = None
    """File with the bearer token."""
    timeout_seconds: float = 30.0
    """Time that one batch may take."""
    digest: str
    """Digest of what computes the reward."""


class DataConfig(Model):
    """Files of prompts."""

    train: list[SourceConfig]
    """Training prompts."""
    validation: list[SourceConfig] = []
    """Prompts that choose the checkpoint; empty when a fraction of the training prompts does."""
    validation_fraction: float = 0.0
    """Share of the training prompts set aside for validation."""
    test: list[SourceConfig] = []
    """Prompts of the before/after table; empty when the validation prompts serve."""


class WarmupConfig(Model):
    """The supervised stage."""

    data: list[SourceConfig]
    """Conversations to imitate."""
    epochs: int
    """Passes over them."""
    batch_size: int
    """Conversations per step, over all processes."""
    learning_rate: float
    """Peak learning rate."""


class TrainingConfig(Model):
    """The reinforcement learning stage."""

    algorithm: Algorithm
    """The loss."""
    epochs: int
    """Passes over the training prompts."""
    max_steps: int | None = None
    """Upper bound of the steps."""
    batch_size: int
    """Prompts per step, over all processes."""
    samples_per_prompt: int
    """Completions per prompt."""
    micro_batch_size: int
    """Completions per pass on each process."""
    learning_rate: float
    """Learning rate."""
    learning_rate_schedule: Literal["Constant", "Linear", "Cosine"]
    """How it moves."""
    maximum_gradient_norm: float
    """Clipping norm."""
    max_prompt_tokens: int
    """Longest prompt."""
    max_completion_tokens: int
    """Longest completion."""
    temperature: float
    """Sampling temperature."""
    kl_coefficient: float
    """Weight of the KL divergence."""
    eval_interval: int
    """Steps between validations."""
    seed: int
    """Seed of everything random."""


class LoraConfig(Model):
    """An adapter's shape."""

    rank: int
    """Rank."""
    alpha: int
    """Scale."""
    last_layers: int | None = None
    """How many of the last layers are adapted; all when absent."""


class DeepSpeedConfig(Model):
    """DeepSpeed's settings."""

    zero_stage: int
    """ZeRO stage."""
    offload_optimizer: bool
    """Whether the optimizer's state is in host memory."""


class ComputeConfig(Model):
    """Processes and devices."""

    nodes: int
    """Machines."""
    processes_per_node: int
    """Processes on each."""
    device: Literal["cuda", "cpu"]
    """What they compute on."""
    deepspeed: DeepSpeedConfig | None = None
    """DeepSpeed's settings; one process without it when absent."""
    rollout_engine: Literal["Transformers", "vLLM"]
    """What generates completions."""

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.processes_per_node


class PreflightConfig(Model):
    """The check before training."""

    prompts: int
    """Prompts to sample."""
    action: Literal["Fail", "Warn", "Skip"]
    """What an unfavourable verdict leads to."""


class EarlyStoppingConfig(Model):
    """When to end for lack of progress."""

    patience: int
    """Validations without improvement."""
    minimum_gain: float
    """Least improvement."""


class TrainerConfig(Model):
    """Everything that the trainer needs: the contents of `job.json`."""

    name: str
    """Name of the job."""
    namespace: str
    """Namespace of the job."""
    model: str
    """Folder of the base model, or OWNER/NAME on the Hugging Face hub."""
    data: DataConfig
    """Files of prompts."""
    rewards: dict[str, RewardTarget]
    """Reward servers by name."""
    shadows: list[str] = []
    """Those of the rewards that score every completion without being trained on."""
    warmup: WarmupConfig | None = None
    """The supervised stage; none when absent."""
    training: TrainingConfig
    """The reinforcement learning stage."""
    lora: LoraConfig | None = None
    """The adapter; every weight is trained when absent."""
    compute: ComputeConfig
    """Processes and devices."""
    output: str
    """Folder of the run's files."""
    preflight: PreflightConfig
    """The check before training."""
    early_stopping: EarlyStoppingConfig | None = None
    """When to end for lack of progress; never when absent."""
