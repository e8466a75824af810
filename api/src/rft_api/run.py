"""A training run: its configuration, exit codes, progress, result, and the files of its output folder."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rft_api.invocation_log import InvocationLog, InvocationLogReport
from rft_api.model import Model
from rft_api.rft_job import Algorithm


class ExitCode(enum.IntEnum):
    """How the trainer and the reward server end; part of the contract with the operator.

    10 to 19 are permanent: starting again with the same input ends the same way. All others may pass.
    """

    SUCCEEDED = 0
    UNEXPECTED = 1
    CONFIGURATION_INVALID = 10
    DATA_INVALID = 11
    MODEL_INVALID = 12
    NOT_LEARNABLE = 13
    REWARD_FAILING = 14
    OUTPUT_INVALID = 15
    DIVERGED = 16
    OUTPUT_FAILED = 74
    INTERRUPTED = 75
    REWARD_UNREACHABLE = 76

    @property
    def reason(self) -> str:
        """The code as a condition's reason: `CONFIGURATION_INVALID` reads `ConfigurationInvalid`."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def permanent(self) -> bool:
        """Whether starting again with the same input cannot help."""
        return 10 <= self.value <= 19


class RunError(Exception):
    """An error that the user can understand and mend; ends the run with its exit code, without a traceback."""

    def __init__(self, code: ExitCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


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


Phase = Literal["Starting", "Data", "Baseline", "Preflight", "WarmUp", "Training", "Evaluating", "Exporting", "Done"]


class Gain(Model):
    """The difference of two models' mean rewards on the same prompts, with its uncertainty."""

    mean: float
    """Mean of the paired differences."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    confidence: float = 0.95
    """Confidence level of the interval (paired percentile bootstrap)."""


class HackingVerdict(Model):
    """Whether the reward rises while a shadow falls."""

    suspected: bool | None
    """Whether it does; null while there is nothing to compare."""
    message: str
    """The verdict in words: the shadow, the numbers, and what to do."""


class Progress(Model):
    """Where a run stands: the body of `GET /progress`."""

    phase: Phase = "Starting"
    """Stage of the run."""
    message: str = ""
    """What is happening, for a person."""
    done: int = 0
    """Units of the stage that are done: steps, or samples of an evaluation."""
    planned: int = 0
    """Units of the stage in all; 0 when unknown."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Optimizer steps planned."""
    epoch: float = 0.0
    """Passes over the training prompts done."""
    reward: float | None = None
    """Mean training reward of the last step."""
    validation_reward: float | None = None
    """Mean validation reward, last measured."""
    episode_length: float | None = None
    """Mean completion tokens of the last step."""
    gradient_norm: float | None = None
    """Gradient norm of the last step, before clipping."""
    rewards_failed: int = 0
    """Samples that could not be scored so far."""
    eta_seconds: float | None = None
    """Estimated seconds left in this stage."""
    reward_hacking: HackingVerdict | None = None
    """What comparing the reward with its shadows says; absent without shadows, and until training has begun."""


class ShadowScores(Model):
    """What a shadow reward gave to the completions that the reward scored."""

    reward: float | None
    """Mean over the completions that it could score; null when there are none."""
    failed: int
    """Completions that it could not score."""


class ShadowComparison(Model):
    """Reward and shadow on the same validation prompts, now against before training."""

    prompts: int
    """Prompts that both could score both times."""
    reward_gain: Gain
    """Change of the reward."""
    shadow_gain: Gain
    """Change of the shadow."""


class TrainMetrics(Model):
    """A step's line in `metrics.jsonl`."""

    split: Literal["train"] = "train"
    """Which kind of line this is."""
    step: int
    """Optimizer steps done."""
    epoch: float
    """Passes over the training prompts done."""
    loss: float | None
    """Policy-gradient loss; its size means little."""
    reward: float | None
    """Mean reward of the step's completions; null when none could be scored."""
    reward_std: float | None
    """Standard deviation of the rewards."""
    components: dict[str, float]
    """Mean of each component."""
    sources: dict[str, float]
    """Mean reward by data source."""
    episode_length: float
    """Mean completion tokens."""
    gradient_norm: float | None
    """Gradient norm before clipping."""
    advantage_mean: float
    """Mean advantage; near 0 by construction."""
    advantage_std: float
    """Standard deviation of the advantages."""
    advantage_abs_mean: float
    """Mean absolute advantage: how strongly the step pushes."""
    policy_entropy: float | None
    """Mean entropy of the token distribution, in nats."""
    kl_divergence: float | None = None
    """Mean KL divergence from the model that RL started from, in nats; absent when its coefficient is 0."""
    zero_variance_group_ratio: float
    """Share of prompts whose completions all got the same reward: they teach nothing."""
    clipped_completion_ratio: float
    """Share of completions cut off at the token limit."""
    learning_rate: float
    """Learning rate of the step."""
    generate_seconds: float
    """Seconds spent generating."""
    reward_seconds: float
    """Seconds spent waiting for rewards and shadows: what scoring adds to the step."""
    reward_request_seconds: float
    """Seconds of the step in which rewards were being computed, most of them beside other work."""
    update_seconds: float
    """Seconds spent on the rest: log-probabilities, backward pass, optimizer."""
    tokens: int
    """Prompt and completion tokens processed so far."""
    rewards_failed: int
    """Samples of this step that could not be scored."""
    shadows: dict[str, ShadowScores] = {}
    """What each shadow gave."""


class ValidationMetrics(Model):
    """A validation's line in `metrics.jsonl`."""

    split: Literal["validation"] = "validation"
    """Which kind of line this is."""
    step: int
    """Optimizer steps done."""
    reward: float | None
    """Mean reward of greedy completions of the validation prompts."""
    components: dict[str, float]
    """Mean of each component."""
    sources: dict[str, float]
    """Mean reward by data source."""
    episode_length: float
    """Mean completion tokens."""
    rewards_failed: int
    """Samples that could not be scored."""
    seconds: float
    """Seconds that the validation took."""
    shadows: dict[str, ShadowScores] = {}
    """What each shadow gave."""
    comparisons: dict[str, ShadowComparison] = {}
    """Reward and each shadow against the validation before training."""


class Evaluation(Model):
    """Greedy completions of the held-out prompts by one model, scored."""

    reward: float
    """Mean reward over the prompts that all models got a score for."""
    components: dict[str, float]
    """Mean of each component over the same prompts."""
    sources: dict[str, float]
    """Mean reward by data source."""
    episode_length: float
    """Mean completion tokens."""
    rewards_failed: int
    """Prompts of this model that could not be scored."""
    shadows: dict[str, float] = {}
    """Mean of each shadow over those of the same prompts that it could score."""


class PreflightVerdict(Model):
    """What the check before training found."""

    verdict: Literal["Fine", "TooEasy", "NotLearnable"]
    """Fine; TooEasy: nearly every completion is right already; NotLearnable: no completion is better than another."""
    message: str
    """The verdict in words, with what to do."""
    reward: float | None
    """Mean reward of the sampled completions."""
    varied_group_ratio: float
    """Share of prompts whose completions got different rewards."""
    prompts: int
    """Prompts sampled."""
    samples_per_prompt: int
    """Completions of each."""
    rewards_failed: int
    """Completions that could not be scored."""


class CheckpointInfo(Model):
    """A checkpoint of the run; also the contents of its completeness marker."""

    step: int
    """Optimizer steps done."""
    validation_reward: float | None
    """Mean validation reward; null when the checkpoint was not validated."""
    resumable: bool = True
    """Whether training can go on from it; false when only the weights were kept."""


class DataReport(Model):
    """What was read."""

    train_prompts: int
    """Prompts to train on."""
    validation_prompts: int
    """Prompts that choose the checkpoint."""
    test_prompts: int
    """Prompts of the before/after table."""
    warmup_conversations: int
    """Conversations of the warm-up."""
    too_long: dict[str, int]
    """Prompts left out for their length, by source; sources without any are absent."""
    invocation_logs: dict[str, InvocationLogReport] = {}
    """What was taken from invocation logs, by split and source."""


class Summary(Model):
    """The result of a run: the contents of `summary.json`."""

    name: str
    """Name of the job."""
    steps: int
    """Optimizer steps done."""
    stopped_early: bool
    """Whether early stopping ended the run."""
    best_step: int
    """Step of the exported checkpoint."""
    best_validation_reward: float | None
    """Its validation reward."""
    checkpoints: list[CheckpointInfo]
    """The best checkpoints, best first."""
    held_out: Literal["test", "validation"]
    """Which prompts the evaluations used; validation prompts have chosen the checkpoint, so they flatter it."""
    prompts: int
    """Prompts that all models got a score for: the table is about these."""
    base: Evaluation
    """The base model."""
    warmup: Evaluation | None = None
    """The model after the warm-up; absent without one."""
    tuned: Evaluation
    """The exported model."""
    gain: Gain
    """Tuned against base."""
    preflight: PreflightVerdict | None = None
    """What the check before training found; absent when skipped."""
    reward_hacking: HackingVerdict | None = None
    """What comparing the reward with its shadows says; absent without shadows."""
    data: DataReport
    """What was read."""
    rewards_failed: int
    """Samples that could not be scored in the whole run."""
    seconds: dict[str, float]
    """Seconds by stage, over all starts of the run."""
    accelerator_hours: float
    """GPUs times hours; 0 on CPUs."""


class Provenance(Model):
    """What the result was made from: the contents of `provenance.json`."""

    model: dict[str, str]
    """SHA-256 of each file of the base model, or the hub revision."""
    data: dict[str, str]
    """SHA-256 of each data file, by split and source."""
    rewards: dict[str, str]
    """Digest of each reward."""
    configuration: str
    """SHA-256 of job.json."""
    versions: dict[str, str]
    """Versions of the packages that computed the result."""
    seed: int
    """Seed of everything random."""


CHECKPOINT_MARKER = "complete.json"

Stage = Literal["base", "warmup", "tuned"]


class RunFolder:
    """Paths in a run's output folder."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """`job.json`: the run's configuration."""
        return self.path / "job.json"

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: a line per step and per validation."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder of the scored completions."""
        return self.path / "rollouts"

    def rollout(self, step: int) -> Path:
        """Scored completions of one step, in parquet."""
        return self.rollouts / f"step-{step}.parquet"

    def validation(self, step: int) -> Path:
        """Scored validation completions after one step, in parquet."""
        return self.path / "validations" / f"step-{step}.parquet"

    def evaluation(self, stage: Stage) -> Path:
        """Scored held-out completions of one model, in parquet."""
        return self.path / "evaluations" / f"{stage}.parquet"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.checkpoints / f"step-{step}"

    @property
    def warmup(self) -> Path:
        """Folder of the weights after the warm-up."""
        return self.path / "warmup"

    @property
    def best(self) -> Path:
        """Folder of the exported model or adapter, ready to serve."""
        return self.path / "best"

    @property
    def preflight(self) -> Path:
        """`preflight.json`: the verdict of the check before training."""
        return self.path / "preflight.json"

    @property
    def summary(self) -> Path:
        """`summary.json`: the result; written last."""
        return self.path / "summary.json"

    @property
    def provenance(self) -> Path:
        """`provenance.json`: digests and versions."""
        return self.path / "provenance.json"

    @property
    def timings(self) -> Path:
        """`timings.json`: seconds of each stage but training, over all starts of the run."""
        return self.path / "timings.json"

    @property
    def curves(self) -> Path:
        """Chart of the curves, without its suffix (.svg, .png)."""
        return self.path / "curves"


COMPONENT_COLUMN_PREFIX = "component/"
"""Prefix of a component's column in rollout and evaluation files; the others are `RolloutRow`'s fields."""
SHADOW_COLUMN_PREFIX = "shadow/"
"""Prefix of a shadow's column in the same files."""
SHADOW_ERROR_COLUMN_PREFIX = "shadowError/"
"""Prefix of the column that says why a shadow could not score; only where one could not."""


class RolloutRow(Model):
    """A row of a rollout or evaluation file, besides its components and shadows."""

    sample_id: str
    """Id of the sample in the reward request."""
    source: str
    """Data source of the prompt."""
    prompt: str
    """The conversation as JSON."""
    completion: str
    """The completion's text."""
    reference_answer: str
    """The reference answer as JSON."""
    reward: float | None
    """The reward; null when it could not be computed."""
    error: str | None
    """Why it could not be computed."""
    explanation: str | None = None
    """Why the reward is what it is, where the reward says so; no column in files where none does."""
    advantage: float | None
    """The advantage; null in evaluations."""
    tokens: Annotated[int, Field(ge=0)]
    """Completion tokens."""
