"""The dashboard of training runs: whether they learn, and how they compare."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Variable, build_dashboard

_JOBS = 'namespace=~"$namespace", job=~"$job"'


def _of(metric: str, more: str = "") -> str:
    return f"{metric}{{{_JOBS}{', ' + more if more else ''}}}"


def _curve(title: str, description: str, metric: str, unit: str = "short") -> Panel:
    return Panel(title, description, (Query(_of(metric), "{{job}}"),), unit)


def build() -> Dashboard:
    """Build the dashboard."""
    return build_dashboard(
        "RFT / Training",
        "rft-training",
        "Whether runs learn. Choose several jobs to compare them. docs/curves.md says more about every curve.",
        (
            Variable("namespace", "Namespace", "label_values(rft_train_planned_steps, namespace)"),
            Variable("job", "Job", 'label_values(rft_train_planned_steps{namespace=~"$namespace"}, job)'),
        ),
        (_OVERVIEW, _REWARD, _POLICY, _SPEED, _IMITATION),
    )


_OVERVIEW = Row(
    "Jobs side by side",
    (
        Panel(
            "Jobs",
            "Healthy: the best validation reward is well above the lowest. When you compare settings, compare the best "
            "validation rewards. The values are those of the dashboard's time range.",
            (
                Query(f"max by (namespace, job) (last_over_time({_of('rft_train_step')}[$__range]))", "Steps"),
                Query(
                    f"max by (namespace, job) (last_over_time({_of('rft_train_planned_steps')}[$__range]))", "Planned"
                ),
                *(
                    Query(
                        f"max by (namespace, job) ({function}({_of('rft_train_reward_mean', part)}[$__range]))",
                        name,
                    )
                    for function, part, name in (
                        ("min_over_time", 'split="validation"', "Lowest validation"),
                        ("max_over_time", 'split="validation"', "Best validation"),
                        ("last_over_time", 'split="validation"', "Last validation"),
                        ("last_over_time", 'split="train"', "Last training"),
                    )
                ),
            ),
            kind="table",
            span=16,
        ),
        Panel(
            "Steps done",
            "Healthy: rises evenly to 1. While the line is flat, the run validates, saves a checkpoint, waits for "
            "rewards, or is stuck.",
            (Query(f"{_of('rft_train_step')} / {_of('rft_train_planned_steps')}", "{{job}}"),),
            "percentunit",
        ),
    ),
)

_REWARD = Row(
    "Reward",
    (
        Panel(
            "Training and validation reward",
            "Healthy: both rise over tens of steps, with noise. Training completions are sampled and validation "
            "completions are greedy by default, so a constant distance is normal. When training rises while validation "
            "falls, the model hacks the reward, or learns the training prompts by heart.",
            (Query(_of("rft_train_reward_mean"), "{{job}} {{split}}"),),
            span=12,
        ),
        Panel(
            "Components",
            "Healthy: the components of the reward rise together, or one after the other. When one falls while the "
            "reward rises, the model gives it up for the others.",
            (Query(_of("rft_train_reward_component_mean"), "{{job}} {{component}} {{split}}"),),
            span=12,
        ),
        Panel(
            "Shadow rewards",
            "Scores of the same completions by rewards that are not trained on. Healthy: they rise with the reward, or "
            "stay. When one falls while the reward rises, the model probably hacks the reward.",
            (Query(_of("rft_train_shadow_reward_mean"), "{{job}} {{shadow}} {{split}}"),),
        ),
        _curve(
            "Spread of rewards",
            "Standard deviation of the rewards of a step. Healthy: above 0, and falls when the task is nearly solved. "
            "At 0 the model learns nothing.",
            "rft_train_reward_std",
        ),
        _curve(
            "Groups with zero variance",
            "Share of prompts whose completions all have the same reward, from which the model learns nothing. "
            "Healthy: well below 1, and rises when the task is nearly solved. When it is high from the start, the task "
            "is too hard or too easy.",
            "rft_train_zero_variance_group_ratio",
            "percentunit",
        ),
        Panel(
            "Failed rewards",
            "Completions that could not be scored, per minute. Healthy: 0. When more than a tenth of the recent "
            "completions fail, the run ends; failures of shadow rewards do not end it.",
            (
                Query(f"60 * rate({_of('rft_train_rewards_failed_total')}[$__rate_interval])", "{{job}}"),
                Query(
                    f"60 * rate({_of('rft_train_shadow_rewards_failed_total')}[$__rate_interval])",
                    "{{job}} {{shadow}} (shadow)",
                ),
            ),
        ),
    ),
)

_POLICY = Row(
    "Policy",
    (
        Panel(
            "Episode length",
            "Mean number of completion tokens. Healthy: settles at the length that the task needs. When it grows with "
            "the reward, but answers do not get better, the reward favours long answers. When it falls towards 0, an "
            "empty answer earns as much as an attempt.",
            (Query(_of("rft_train_episode_length_tokens_mean"), "{{job}} {{split}}"),),
        ),
        _curve(
            "Clipped completions",
            "Share of completions that were cut off at maxCompletionTokens. Healthy: near 0, or falling.",
            "rft_train_clipped_completion_ratio",
            "percentunit",
        ),
        _curve(
            "Gradient norm",
            "The norm before clipping. Healthy: stays within one order of magnitude. Single spikes do little harm; "
            "when they come often, lower the learning rate.",
            "rft_train_gradient_norm",
        ),
        Panel(
            "Advantages",
            "The mean is near 0 by construction. Healthy: standard deviation and mean absolute value are well above 0; "
            "they say how strongly a step changes the model.",
            (
                Query(_of("rft_train_advantage_mean"), "{{job}} mean"),
                Query(_of("rft_train_advantage_std"), "{{job}} standard deviation"),
                Query(_of("rft_train_advantage_abs_mean"), "{{job}} mean absolute"),
            ),
        ),
        _curve(
            "Entropy",
            "Mean entropy of the token distribution, in nats. Healthy: falls slowly and stays above 0. A fall to "
            "nearly 0 within a few steps is a collapse: the model has stopped trying other answers.",
            "rft_train_policy_entropy",
        ),
        _curve(
            "KL divergence",
            "Divergence from the model with which training started, in nats; measured only with a klCoefficient. "
            "Healthy: grows at first, and then slowly. When it keeps growing while the validation reward does not, the "
            "model has moved too far.",
            "rft_train_kl_divergence",
        ),
        Panel(
            "Importance ratios",
            "A token's probability in the trainer, divided by that with which vLLM has sampled it, after the "
            "correction. Healthy: the mean is near 1. When it leaves 1, vLLM computes something else than the trainer, "
            "and the run learns from completions that are not the policy's.",
            (
                Query(_of("rft_train_importance_ratio_mean"), "{{job}} mean"),
                Query(_of("rft_train_importance_ratio_min"), "{{job}} smallest"),
                Query(_of("rft_train_importance_ratio_max"), "{{job}} largest"),
            ),
        ),
        _curve(
            "Clipped importance ratios",
            "Share of importance ratios that the correction has changed. Healthy: below 1 percent.",
            "rft_train_importance_ratio_clipped",
            "percentunit",
        ),
        Panel(
            "Difference of log-probabilities",
            "Absolute difference between trainer and vLLM for the sampled tokens. Healthy: a mean below 0.05 in "
            "bfloat16 and below 0.0001 in float32, which does not grow.",
            (
                Query(_of("rft_train_logprob_difference_mean"), "{{job}} mean"),
                Query(_of("rft_train_logprob_difference_max"), "{{job}} largest"),
            ),
        ),
    ),
)

_SPEED = Row(
    "Speed",
    (
        Panel(
            "Step time by phase",
            "Healthy: steady. Usually generation takes the largest part, and rewards a small one. A slow rise means "
            "longer completions or a slower reward.",
            (Query(_of("rft_train_step_seconds"), "{{job}} {{phase}}"),),
            "s",
        ),
        Panel(
            "Time of rewards",
            "Seconds of a step in which rewards were computed, and the part of them in which the trainer only waited. "
            "When the two are far apart, the reward server is fast enough. When they are close together, give it more "
            "replicas, or a faster judge.",
            (
                Query(_of("rft_train_reward_request_seconds"), "{{job}} computed"),
                Query(_of("rft_train_step_seconds", 'phase="reward"'), "{{job}} waited for"),
            ),
            "s",
        ),
        Panel(
            "Tokens per second",
            "Prompt and completion tokens. Healthy: steady, with gaps while the run validates or saves a checkpoint.",
            (Query(f"rate({_of('rft_train_tokens_total')}[$__rate_interval])", "{{job}}"),),
        ),
        Panel(
            "Age of the newest checkpoint",
            "Healthy: falls to 0 at every validation. When the pods of the run are lost, the work of this time is "
            "lost.",
            (Query(f"time() - {_of('rft_train_checkpoint_timestamp_seconds')}", "{{job}}"),),
            "s",
        ),
        Panel(
            "Steps that were not finite",
            "Steps whose loss or gradient norm was NaN or infinite. Healthy: 0. Three in a row end the run.",
            (Query(f"increase({_of('rft_train_nonfinite_steps_total')}[$__rate_interval])", "{{job}}"),),
        ),
    ),
)

_IMITATION = Row(
    "Imitation (a warm-up alone)",
    (
        Panel(
            "Loss",
            "Mean negative log-probability of the tokens that are imitated, in nats: of each step, and of the "
            "validation conversations after each epoch. Healthy: both fall. When that of the validation rises again, "
            "take fewer epochs or a lower learning rate.",
            (
                Query(_of("rft_train_warmup_loss"), "{{job}} steps"),
                Query(_of("rft_train_warmup_validation_loss"), "{{job}} validation"),
            ),
            span=12,
        ),
    ),
)
