"""The metrics of a run: the lines of `metrics.jsonl`, and the series of Prometheus that are made of them.

A metric is declared once, as a field: its docstring says what it is, `Served` under which name the trainer serves it,
`Healthy` how its curve should look. The trainer's gauges and docs/reference/metrics.md follow from the fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeVar

from rft_api.model import Model

MetadataT = TypeVar("MetadataT")


@dataclass(frozen=True)
class Served:
    """The series of Prometheus that a field is served as: `Annotated[float, Served("rft_train_reward_std")]`."""

    name: str
    """Name of the metric; of a counter without the suffix `_total`, which Prometheus adds."""
    help: str = ""
    """What the metric is, where several fields share its name; else the field's description says it."""
    by_split: bool = False
    """Whether the label `split` tells training from validation."""
    key: str = ""
    """Label that holds the keys of a field that is a dictionary."""
    labels: tuple[tuple[str, str], ...] = ()
    """Further labels and their values."""
    counter: bool = False
    """Whether the values of all lines are added up; a gauge shows the last one."""

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, beside those that all series of a run have."""
        return [*([self.key] if self.key else []), *(["split"] if self.by_split else []), *(n for n, _ in self.labels)]

    @property
    def series(self) -> str:
        """The name that queries use."""
        return f"{self.name}_total" if self.counter else self.name


@dataclass(frozen=True)
class Healthy:
    """How the curve of a field looks when nothing is wrong."""

    text: str


@dataclass(frozen=True)
class Sample:
    """A value of a series: what a gauge is set to, or by how much a counter grows."""

    served: Served
    labels: dict[str, str]
    value: float


class Gain(Model):
    """The difference of two models' means on the same prompts or conversations, with its uncertainty."""

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

    reward: Annotated[
        float | None, Served("rft_train_shadow_reward_mean", "Mean of a shadow reward.", by_split=True, key="shadow")
    ]
    """Mean over the completions that it could score; null when there are none."""
    failed: Annotated[
        int,
        Served(
            "rft_train_shadow_rewards_failed",
            "Completions that a shadow could not score, in steps and validations.",
            key="shadow",
            counter=True,
        ),
        Healthy("0"),
    ]
    """Completions that it could not score."""


class ShadowComparison(Model):
    """Reward and shadow on the same validation prompts, now against before training."""

    prompts: int
    """Prompts that both could score both times."""
    reward_gain: Gain
    """Change of the reward."""
    shadow_gain: Gain
    """Change of the shadow."""


STEPS_DONE = Served("rft_train_step")
_REWARD = Served("rft_train_reward_mean", "Mean reward.", by_split=True)
_COMPONENTS = Served("rft_train_reward_component_mean", "Mean of a component.", by_split=True, key="component")
_LENGTH = Served("rft_train_episode_length_tokens_mean", "Mean completion tokens.", by_split=True)
_FAILED = Served(
    "rft_train_rewards_failed", "Completions that could not be scored, in steps and validations.", counter=True
)


def _seconds(phase: str) -> Served:
    return Served("rft_train_step_seconds", "Seconds of the last step, by phase.", labels=(("phase", phase),))


class TrainMetrics(Model):
    """A step's line in `metrics.jsonl`."""

    split: Literal["train"] = "train"
    """Which kind of line this is: `train`."""
    step: Annotated[int, STEPS_DONE]
    """Optimizer steps done."""
    epoch: float
    """Passes over the training prompts done."""
    loss: Annotated[float | None, Healthy("Says nothing: it is near 0 whether the model learns or not.")]
    """The policy-gradient loss."""
    reward: Annotated[
        float | None,
        _REWARD,
        Healthy(
            "Rises over tens of steps, with noise. A step has few prompts, and they differ in difficulty: look at the "
            "trend."
        ),
    ]
    """Mean reward of the step's completions. `null` when none could be scored."""
    reward_std: Annotated[
        float | None, Served("rft_train_reward_std"), Healthy("Above 0. Falls when the task is nearly solved.")
    ]
    """Standard deviation of the rewards."""
    components: Annotated[
        dict[str, float],
        _COMPONENTS,
        Healthy("The components that the reward is made of rise together, or one after the other."),
    ]
    """Mean of each component, over the completions that have it. A run records at most 64 names."""
    components_left_out: Annotated[int, Healthy("0. Otherwise, give components fixed names.")] = 0
    """Values of components that are not recorded, because the run or the completion has more than 64 names."""
    sources: Annotated[dict[str, float], Healthy("No source falls while the others rise.")]
    """Mean reward by data source."""
    episode_length: Annotated[float, _LENGTH, Healthy("Settles at what the task needs.")]
    """Mean completion tokens."""
    gradient_norm: Annotated[
        float | None,
        Served("rft_train_gradient_norm"),
        Healthy("Of one order of magnitude. 0 in a step whose groups all have zero variance."),
    ]
    """Gradient norm before clipping to `maximumGradientNorm`."""
    advantage_mean: Annotated[float, Served("rft_train_advantage_mean"), Healthy("Near 0, by construction.")]
    """Mean advantage."""
    advantage_std: Annotated[
        float,
        Served("rft_train_advantage_std"),
        Healthy("Well above 0; with GRPO near 1, less what zero-variance groups take away."),
    ]
    """Standard deviation of the advantages."""
    advantage_abs_mean: Annotated[float, Served("rft_train_advantage_abs_mean"), Healthy("As the line above.")]
    """Mean absolute advantage: how strongly the step pushes."""
    policy_entropy: Annotated[
        float | None, Served("rft_train_policy_entropy"), Healthy("Falls slowly and stays above 0.")
    ]
    """Mean entropy of the token distribution, in nats."""
    kl_divergence: Annotated[
        float | None, Served("rft_train_kl_divergence"), Healthy("Grows at first, then slowly.")
    ] = None
    """Mean KL divergence from the model that training started with, in nats. `null`, and absent in Prometheus, when
    `klCoefficient` is 0."""
    importance_ratio_mean: Annotated[
        float | None,
        Served("rft_train_importance_ratio_mean"),
        Healthy("Near 1. Far from 1, vLLM does not compute what the trainer computes: look at precision and versions."),
    ] = None
    """Mean importance ratio of the step's tokens, after the correction: the trainer's probability divided by that of
    vLLM. `null`, and absent in Prometheus, in the engine InProcess."""
    importance_ratio_min: Annotated[
        float | None, Served("rft_train_importance_ratio_min"), Healthy("Above 0.1 in bfloat16, near 1 in float32.")
    ] = None
    """Smallest importance ratio."""
    importance_ratio_max: Annotated[
        float | None, Served("rft_train_importance_ratio_max"), Healthy("At most the cap; near 1 in float32.")
    ] = None
    """Largest importance ratio, after the correction."""
    importance_ratio_clipped: Annotated[
        float | None, Served("rft_train_importance_ratio_clipped"), Healthy("Below 0.01.")
    ] = None
    """Share of importance ratios that the correction has lowered to the cap, or set to 0."""
    logprob_difference_mean: Annotated[
        float | None,
        Served("rft_train_logprob_difference_mean"),
        Healthy("Below 0.05 in bfloat16, below 0.0001 in float32, and does not grow."),
    ] = None
    """Mean absolute difference of the log-probabilities that trainer and vLLM compute for the sampled tokens."""
    logprob_difference_max: Annotated[
        float | None,
        Served("rft_train_logprob_difference_max"),
        Healthy("Below 1 in bfloat16, below 0.001 in float32."),
    ] = None
    """Largest absolute difference of the log-probabilities of a token."""
    zero_variance_group_ratio: Annotated[
        float,
        Served("rft_train_zero_variance_group_ratio"),
        Healthy("Well below 1. Rises when the task is nearly solved."),
    ]
    """Share of prompts whose completions all got the same reward. They teach nothing."""
    clipped_completion_ratio: Annotated[
        float, Served("rft_train_clipped_completion_ratio"), Healthy("Near 0, or falling.")
    ]
    """Share of completions cut off at `maxCompletionTokens`."""
    learning_rate: Annotated[float, Healthy("As `learningRateSchedule` says.")]
    """Learning rate of the step."""
    generate_seconds: Annotated[float, _seconds("generate"), Healthy("Usually the largest part.")]
    """Seconds spent generating."""
    reward_seconds: Annotated[float, _seconds("reward"), Healthy("Small beside the others.")]
    """Seconds spent waiting for rewards and shadows: what scoring adds to the step."""
    reward_request_seconds: Annotated[float, Served("rft_train_reward_request_seconds")]
    """Seconds of the step in which rewards were being computed, by rank 0's requests. What of it is not in
    `rewardSeconds` is hidden behind other work."""
    update_seconds: Annotated[float, _seconds("update")]
    """Seconds spent on the rest: log-probabilities, backward pass, optimizer."""
    tokens: Annotated[int, Served("rft_train_tokens", counter=True)]
    """Prompt and completion tokens processed so far."""
    trained_tokens: int | None = None
    """Completion tokens so far that counted in the loss: all but those of the completions that
    `maskTruncatedCompletions` leaves out. Tokens of prompts and of the warm-up do not count. `null` in a run that an
    older version has begun."""
    rewards_failed: Annotated[int, _FAILED, Healthy("0")]
    """Completions of the step that could not be scored."""
    shadows: Annotated[dict[str, ShadowScores], Healthy("Moves as the reward does.")] = {}
    """Of each [shadow](../rewards.md#shadow-rewards): the mean over the completions that it could score, and how many
    it could not."""
    ended_at: float | None = None
    """When the step had ended, in Unix seconds; absent in lines of older versions."""


class ValidationMetrics(Model):
    """A validation's line in `metrics.jsonl`."""

    split: Literal["validation"] = "validation"
    """Which kind of line this is: `validation`."""
    step: int
    """Optimizer steps done."""
    reward: Annotated[float | None, _REWARD, Healthy("Rises with the training reward, at a constant distance.")]
    """Mean reward of completions of the validation prompts, greedy by default. It chooses the checkpoint."""
    components: Annotated[dict[str, float], _COMPONENTS]
    """Mean of each component."""
    components_left_out: int = 0
    """Values of components that are not recorded."""
    sources: dict[str, float]
    """Mean reward by data source."""
    episode_length: Annotated[float, _LENGTH]
    """Mean completion tokens."""
    rewards_failed: Annotated[int, _FAILED, Healthy("0")]
    """Completions that could not be scored."""
    seconds: float
    """Seconds that the validation took."""
    shadows: dict[str, ShadowScores] = {}
    """Of each shadow: the mean over the completions that it could score, and how many it could not."""
    comparisons: dict[str, ShadowComparison] = {}
    """Reward and each shadow against the validation before training: see
    [the rule](../curves.md#reward-hacking-is-suspected)."""
    ended_at: float | None = None
    """When the validation had ended, in Unix seconds; absent in lines of older versions."""


class WarmupMetrics(Model):
    """A line in `metrics.jsonl` of a step of a job that is its warm-up alone."""

    split: Literal["warmup"] = "warmup"
    """Which kind of line this is: `warmup`."""
    step: Annotated[int, STEPS_DONE]
    """Optimizer steps done."""
    epoch: float
    """Passes over the conversations done."""
    loss: Annotated[float | None, Served("rft_train_warmup_loss"), Healthy("Falls, with noise.")]
    """Mean negative log-probability, in nats, of the tokens of the step that are imitated."""
    accuracy: Annotated[float | None, Healthy("Rises, with noise.")]
    """Share of these tokens to which the model gives the highest probability, from 0 to 1."""
    validation_loss: Annotated[
        float | None,
        Served("rft_train_warmup_validation_loss"),
        Healthy("Falls with the loss. When it rises again, take fewer epochs or a lower learning rate."),
    ] = None
    """The same on the validation conversations, after the step; `null` in steps without a validation."""
    gradient_norm: Annotated[float | None, Served("rft_train_gradient_norm"), Healthy("Of one order of magnitude.")]
    """Gradient norm before clipping to `maximumGradientNorm`."""
    learning_rate: Annotated[float, Healthy("Falls linearly to 0.")]
    """Learning rate of the step."""
    tokens: Annotated[int, Served("rft_train_tokens", counter=True)]
    """Tokens of conversations processed so far, prompts included."""
    trained_tokens: int
    """Tokens so far that counted in the loss: those that are imitated, as often as they were."""
    seconds: float
    """Seconds since the step before, with validations and checkpoints."""
    ended_at: float
    """When the step had ended, in Unix seconds."""


Metrics = TrainMetrics | ValidationMetrics | WarmupMetrics
"""A line of `metrics.jsonl`."""
_SPLITS: Mapping[object, type[Metrics]] = {"train": TrainMetrics, "warmup": WarmupMetrics}


PLANNED_STEPS = Served("rft_train_planned_steps", "Optimizer steps planned.")
CHECKPOINT_TIME = Served(
    "rft_train_checkpoint_timestamp_seconds",
    "When the newest checkpoint was complete (Unix time); until there is one, when training began.",
)
NONFINITE_STEPS = Served(
    "rft_train_nonfinite_steps",
    "Steps whose loss or gradient norm was not finite. Three in a row end the run.",
    counter=True,
)
HACKING_SUSPECTED = Served(
    "rft_train_reward_hacking_suspected", "1 when the reward rises while a shadow falls, else 0."
)
RUN_SERIES: Mapping[Served, Healthy] = {
    PLANNED_STEPS: Healthy(""),
    CHECKPOINT_TIME: Healthy("Follows the clock, a validation interval behind."),
    NONFINITE_STEPS: Healthy("0"),
    HACKING_SUSPECTED: Healthy("0"),
}
"""Series of a run as a whole, which belong to no line of `metrics.jsonl`."""


def parse_metrics(line: object) -> Metrics:
    """Return the metrics of a line of `metrics.jsonl`, from its JSON.

    Raises:
        ValueError: when it is none.
    """
    split = line.get("split") if isinstance(line, dict) else None
    return _SPLITS.get(split if isinstance(split, str) else None, ValidationMetrics).model_validate(line)


def metadata_of(model: type[Model], name: str, kind: type[MetadataT]) -> MetadataT | None:
    """Return what a field is annotated with, of one kind; None when it is not."""
    return next((item for item in model.model_fields[name].metadata if isinstance(item, kind)), None)


def served_fields(model: type[Model]) -> Iterator[tuple[str, Served]]:
    """Yield the fields of a model that are served, with their series."""
    for name, field in model.model_fields.items():
        served = metadata_of(model, name, Served)
        if served is not None:
            yield name, replace(served, help=served.help or " ".join(str(field.description).split()))


def all_series() -> dict[str, Served]:
    """Return every series that a trainer serves, by its name."""
    models = (WarmupMetrics, TrainMetrics, ValidationMetrics, ShadowScores)
    lines = [served for model in models for _, served in served_fields(model)]
    return {served.name: served for served in [*lines, *RUN_SERIES]}


def samples(metrics: Metrics) -> Iterator[Sample]:
    """Yield the values of a line, as series; what has not been measured is absent."""
    yield from _samples(metrics, metrics.split)
    if isinstance(metrics, WarmupMetrics):
        return
    for name, scores in metrics.shadows.items():
        yield from _samples(scores, metrics.split, name)


def _samples(model: Model, split: str, key: str = "") -> Iterator[Sample]:
    for name, served in served_fields(type(model)):
        value = getattr(model, name)
        labels = {**dict(served.labels), **({"split": split} if served.by_split else {})}
        if isinstance(value, dict):
            yield from (Sample(served, {**labels, served.key: inner}, value[inner]) for inner in value)
        elif value is not None:
            yield Sample(served, {**labels, **({served.key: key} if served.key else {})}, value)
