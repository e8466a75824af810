"""The result of a run: `summary.json`, `preflight.json` and `provenance.json`."""

from __future__ import annotations

from typing import Literal

from rft_api.invocation_log import InvocationLogReport
from rft_api.metrics import Gain
from rft_api.model import Model
from rft_api.progress import HackingVerdict
from rft_api.run_folder import CheckpointInfo
from rft_api.sampling import EvaluationSettings, Sampling


class Evaluation(Model):
    """The scores of one model's completions of the held-out prompts."""

    reward: float
    """Mean reward over the prompts for which every model has a score; of several completions of a prompt, the mean."""
    components: dict[str, float]
    """Mean of each component over the same prompts."""
    sources: dict[str, float]
    """Mean reward by data source."""
    episode_length: float
    """Mean number of tokens in the completions."""
    rewards_failed: int
    """Number of completions by this model that could not be scored."""
    shadows: dict[str, float] = {}
    """Mean of each shadow over those of the same prompts that it could score."""


class LossComparison(Model):
    """The loss of the base model and of the tuned model on the same held-out conversations."""

    conversations: int
    """Number of conversations."""
    tokens: int
    """Number of tokens of their answers that are imitated."""
    base: float
    """Mean of the negative log-probability, in nats, that the base model gives these tokens."""
    tuned: float
    """The same of the exported model."""
    change: Gain
    """Difference between the tuned model and the base model; below 0, the tuned model is better."""


class PreflightVerdict(Model):
    """The verdict of the check before training."""

    verdict: Literal["Fine", "TooEasy", "NotLearnable"]
    """Fine: the model can learn; TooEasy: nearly every completion is right already; NotLearnable: no completion is
    better than another."""
    message: str
    """Explanation of the verdict, with what to do."""
    reward: float | None
    """Mean reward of the sampled completions."""
    varied_group_ratio: float
    """Share of prompts whose completions got different rewards."""
    prompts: int
    """Number of prompts whose completions were sampled."""
    samples_per_prompt: int
    """Number of completions of each prompt."""
    rewards_failed: int
    """Number of completions that could not be scored."""


class DataReport(Model):
    """The data that was read."""

    train_prompts: int
    """Number of training prompts."""
    validation_prompts: int
    """Number of validation prompts, which choose the checkpoint."""
    test_prompts: int
    """Number of test prompts, on which the models are compared."""
    warmup_conversations: int
    """Number of conversations of the warm-up."""
    warmup_validation_conversations: int = 0
    """Number of conversations on which its loss was measured."""
    too_long: dict[str, int]
    """Number of prompts that were left out for their length, by split and source; sources without any are absent."""
    invocation_logs: dict[str, InvocationLogReport] = {}
    """Reports of the invocation logs, by split and source."""


class Summary(Model):
    """The result of a run: the contents of `summary.json`."""

    name: str
    """Name of the job."""
    steps: int
    """Number of optimizer steps of the run."""
    stopped_early: bool
    """Whether early stopping ended the run."""
    trained_tokens: int | None = None
    """Number of tokens that counted in the loss: of completions, or, in a warm-up alone, of answers. It is absent in a
    run that an older version has begun."""
    best_step: int
    """Step of the exported checkpoint."""
    best_validation_reward: float | None
    """Validation reward of the exported checkpoint."""
    checkpoints: list[CheckpointInfo]
    """The checkpoints with the highest validation reward, best first."""
    held_out: Literal["test", "validation"] | None
    """Prompts on which the models were compared. Validation prompts have chosen the checkpoint, so that the result on
    them is biased upwards. Null without prompts, of a warm-up alone."""
    prompts: int
    """Number of prompts for which every model has a score. The comparison is over these prompts."""
    base: Evaluation | None = None
    """Scores of the base model; absent without prompts."""
    base_revision: str | None = None
    """Commit of the base model on the Hugging Face hub; absent for a model in a folder."""
    warmup: Evaluation | None = None
    """Scores of the model after the warm-up; absent without a warm-up."""
    tuned: Evaluation | None = None
    """Scores of the exported model; absent without prompts."""
    gain: Gain | None = None
    """Difference between the tuned model and the base model; absent without prompts."""
    loss: LossComparison | None = None
    """Loss before and after a job that is its warm-up alone; absent for others."""
    sampling: Sampling = Sampling()
    """What the models were asked with. The tuned model has to be asked with the same."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Temperature and number of the completions that were compared."""
    preflight: PreflightVerdict | None = None
    """Verdict of the check before training; absent when the check was skipped."""
    reward_hacking: HackingVerdict | None = None
    """Verdict of comparing the reward with its shadows; absent without shadows."""
    data: DataReport
    """The data that was read."""
    rewards_failed: int
    """Number of samples of the whole run that could not be scored."""
    components_left_out: int = 0
    """Number of values of components that steps and validations have not recorded, because the reward names more than
    64 components."""
    seconds: dict[str, float]
    """Duration of each stage in seconds, summed over all starts of the run."""
    accelerator_hours: float
    """Number of GPUs times the hours of the run; 0 on CPUs."""


class Provenance(Model):
    """The inputs that a result was made from: the contents of `provenance.json`."""

    model: dict[str, str]
    """SHA-256 of each file of the base model; for one on the hub, its `repository` and its commit, as `revision`."""
    data: dict[str, str]
    """SHA-256 of each data file, by split and source."""
    rewards: dict[str, str]
    """Digest of each reward."""
    configuration: str
    """SHA-256 of job.json."""
    versions: dict[str, str]
    """Versions of the packages that computed the result."""
    precision: str
    """What the model was computed in, such as float32."""
    seed: int
    """Seed of all random numbers of the run."""
