"""The trainer's configuration: the contents of `job.json`.

It holds the parts of an RFTJob in the classes that validate the manifest, with addresses that the trainer can open.
"""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.model import Model
from rft_api.sources import Data
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

LARGEST_DEFAULT_MICRO_BATCH = 8


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


class TrainerConfig(Model):
    """Everything that the trainer needs."""

    name: str
    """Name of the job."""
    namespace: str
    """Namespace of the job."""
    model: str
    """Folder of the base model, or OWNER/NAME on the Hugging Face hub."""
    data: Data
    """The prompts."""
    rewards: dict[str, RewardTarget]
    """Reward servers by name."""
    shadows: list[str] = []
    """Those of the rewards that score every completion without being trained on."""
    warmup: Warmup | None = None
    """The supervised stage; none when absent."""
    algorithm: Algorithm
    """The policy-gradient loss."""
    hyperparameters: Hyperparameters
    """How to train."""
    tuning: Tuning
    """Which weights are trained."""
    compute: TrainerCompute
    """Processes and devices."""
    output: str
    """Folder of the run's files."""
    preflight: Preflight
    """The check before training."""
    early_stopping: EarlyStopping | None = None
    """When to end for lack of progress; never when absent."""

    def sources(self) -> Iterator[SplitSource]:
        """Every source of prompts and conversations."""
        return split_sources(self.data, self.warmup)

    @property
    def completions_per_process(self) -> int:
        """Completions that each process handles per optimizer step."""
        return self.hyperparameters.batch_size * self.hyperparameters.samples_per_prompt // self.compute.world_size

    @property
    def effective_micro_batch_size(self) -> int:
        """Completions per pass on each process: as stated, or the largest divisor of a process's share up to 8."""
        share = self.completions_per_process
        sizes = range(1, LARGEST_DEFAULT_MICRO_BATCH + 1)
        return self.hyperparameters.micro_batch_size or max(size for size in sizes if share % size == 0)
