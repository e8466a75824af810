"""The trainer's configuration: the contents of `job.json`.

It holds the parts of an RFTJob in the classes that validate the manifest, with addresses that the trainer can open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rft_api.checkpoint_settings import Checkpoints
from rft_api.model import Model
from rft_api.sampling import EvaluationSettings, Sampling
from rft_api.sources import Data
from rft_api.trackers import Trackers
from rft_api.training import (
    Algorithm,
    EarlyStopping,
    Hyperparameters,
    Preflight,
    RewardScale,
    SplitSource,
    TrainerCompute,
    default_scale,
    split_sources,
)
from rft_api.tuning import Tuning
from rft_api.warmup import Warmup


class RewardTarget(Model):
    """The server of a reward."""

    url: str
    """Base URL of the server."""
    token_file: str | None = None
    """File with the bearer token."""
    timeout_seconds: float = 30.0
    """Number of seconds that one batch may take."""
    scope: Literal["Sample", "Group"] | None = None
    """Whether all completions of a prompt are sent together (Group). By default they need not be."""
    digest: str
    """Digest of the code and options that compute the reward."""


class TrainerConfig(Model):
    """The configuration of a trainer."""

    name: str
    """Name of the job."""
    namespace: str
    """Namespace of the job."""
    model: str
    """Folder of the base model, or OWNER/NAME or OWNER/NAME@REVISION on the Hugging Face hub."""
    data: Data
    """The prompts to train and to evaluate on."""
    rewards: dict[str, RewardTarget]
    """Reward servers by name."""
    shadows: list[str] = []
    """Names of the rewards that also score every completion but are not trained on."""
    warmup: Warmup | None = None
    """The supervised stage before reinforcement learning, or in its place; None when there is none."""
    algorithm: Algorithm
    """The policy-gradient loss."""
    hyperparameters: Hyperparameters
    """Hyperparameters of reinforcement learning."""
    sampling: Sampling = Sampling()
    """What completions are sampled from, and where they end."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How held-out prompts are completed."""
    tuning: Tuning
    """Which weights are trained."""
    compute: TrainerCompute
    """The processes of the trainer and their devices."""
    output: str
    """Folder of the run's files."""
    checkpoints: Checkpoints = Checkpoints()
    """Which checkpoints the run writes and keeps."""
    trackers: Trackers = []
    """Products to which the run sends its curves."""
    preflight: Preflight
    """The check before training."""
    early_stopping: EarlyStopping | None = None
    """When training ends because the validation reward has stopped improving; None when it does not end early."""

    def sources(self) -> Iterator[SplitSource]:
        """Return all sources of prompts and conversations."""
        return split_sources(self.data, self.warmup)

    @property
    def is_reinforced(self) -> bool:
        """Whether the run learns from rewards; otherwise it is its warm-up alone."""
        return bool(self.data.train)

    @property
    def effective_scale_rewards(self) -> RewardScale:
        """What advantages are scaled by, or the algorithm's default."""
        return self.hyperparameters.scale_rewards or default_scale(self.algorithm)

    @property
    def completions_per_process(self) -> int:
        """Number of completions that each process handles per optimizer step."""
        return self.hyperparameters.batch_size * self.hyperparameters.samples_per_prompt // self.compute.world_size

    @property
    def effective_micro_batch_size(self) -> int:
        """Number of completions that TRL takes for a micro-batch: as stated, or a process's whole share of a step."""
        return self.hyperparameters.micro_batch_size or self.completions_per_process
