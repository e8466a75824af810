"""The metrics of a run: the lines of `metrics.jsonl`."""

from __future__ import annotations

from typing import Literal

from rft_api.model import Model


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
