"""The result of a run: `summary.json`, `preflight.json` and `provenance.json`."""

from __future__ import annotations

from typing import Literal

from rft_api.invocation_log import InvocationLogReport
from rft_api.metrics import Gain
from rft_api.model import Model
from rft_api.progress import HackingVerdict
from rft_api.run_folder import CheckpointInfo


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
