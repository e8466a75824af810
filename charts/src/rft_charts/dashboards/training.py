"""The dashboard of training runs: whether they learn, one beside another."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Variable, build_dashboard

_JOBS = 'namespace=~"$namespace", job=~"$job"'


def _of(metric: str, more: str = "") -> str:
    return f"{metric}{{{_JOBS}{', ' + more if more else ''}}}"


def _curve(title: str, description: str, metric: str, unit: str = "short") -> Panel:
    return Panel(title, description, (Query(_of(metric), "{{job}}"),), unit)


def build() -> Dashboard:
    """The dashboard."""
    return build_dashboard(
        "RFT / Training",
        "rft-training",
        "Whether runs learn. Choose several jobs to compare them. docs/curves.md says more about every curve.",
        (
            Variable("namespace", "Namespace", "label_values(rft_train_planned_steps, namespace)"),
            Variable("job", "Job", 'label_values(rft_train_planned_steps{namespace=~"$namespace"}, job)'),
        ),
        (_OVERVIEW, _REWARD, _POLICY, _SPEED),
    )


_OVERVIEW = Row(
    "Jobs side by side",
    (
        Panel(
            "Jobs",
            "The best validation reward should be well above the lowest, and above other jobs' where you compare "
            "settings. Values are of the time range above.",
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
            "Rises evenly to 1. A flat line: the run validates, saves a checkpoint, waits for rewards, or is stuck.",
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
            "Both rise over tens of steps, with noise; training is sampled and validation greedy, so a constant "
            "distance is normal. Training rises while validation falls: reward hacking, or learnt by heart.",
            (Query(_of("rft_train_reward_mean"), "{{job}} {{split}}"),),
            span=12,
        ),
        Panel(
            "Components",
            "The components that the reward is made of rise together, or one after the other. One that falls while the "
            "reward rises is traded away.",
            (Query(_of("rft_train_reward_component_mean"), "{{job}} {{component}} {{split}}"),),
            span=12,
        ),
        Panel(
            "Shadow rewards",
            "What rewards that are not trained on give to the same completions. They rise with the reward, or stay. "
            "One that falls while the reward rises says that the reward is being hacked.",
            (Query(_of("rft_train_shadow_reward_mean"), "{{job}} {{shadow}} {{split}}"),),
        ),
        _curve(
            "Spread of rewards",
            "Standard deviation of a step's rewards. Above 0; falls when the task is nearly solved. 0 teaches nothing.",
            "rft_train_reward_std",
        ),
        _curve(
            "Groups with zero variance",
            "Share of prompts whose completions all got the same reward, which teach nothing. Well below 1; rises "
            "when the task is nearly solved. High from the start: too hard, or too easy.",
            "rft_train_zero_variance_group_ratio",
            "percentunit",
        ),
        Panel(
            "Failed rewards",
            "Completions that could not be scored, per minute. 0. More than a tenth of the recent ones end the run; "
            "shadows may fail.",
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
            "Mean completion tokens. Settles at what the task needs. Growing with the reward, without better answers: "
            "the reward pays for length. Falling towards 0: an empty answer pays as well as an attempt.",
            (Query(_of("rft_train_episode_length_tokens_mean"), "{{job}} {{split}}"),),
        ),
        _curve(
            "Clipped completions",
            "Share of completions cut off at maxCompletionTokens. Near 0, or falling.",
            "rft_train_clipped_completion_ratio",
            "percentunit",
        ),
        _curve(
            "Gradient norm",
            "Before clipping. Of one order of magnitude; single spikes do little harm. Often: lower the learning rate.",
            "rft_train_gradient_norm",
        ),
        Panel(
            "Advantages",
            "Mean near 0, by construction. Standard deviation and mean absolute value well above 0: they say how "
            "strongly a step pushes.",
            (
                Query(_of("rft_train_advantage_mean"), "{{job}} mean"),
                Query(_of("rft_train_advantage_std"), "{{job}} standard deviation"),
                Query(_of("rft_train_advantage_abs_mean"), "{{job}} mean absolute"),
            ),
        ),
        _curve(
            "Entropy",
            "Mean entropy of the token distribution, in nats. Falls slowly and stays above 0. A fall to nearly 0 "
            "within few steps is a collapse: the model has stopped trying other answers.",
            "rft_train_policy_entropy",
        ),
        _curve(
            "KL divergence",
            "From the model that training started with, in nats; measured only with a klCoefficient. Grows at first, "
            "then slowly. Ever farther, without a better validation reward: too far.",
            "rft_train_kl_divergence",
        ),
    ),
)

_SPEED = Row(
    "Speed",
    (
        Panel(
            "Step time by phase",
            "Usually generation takes most; rewards take little beside the others. Steady: a slow rise is longer "
            "completions or a slower reward.",
            (Query(_of("rft_train_step_seconds"), "{{job}} {{phase}}"),),
            "s",
        ),
        Panel(
            "Time of rewards",
            "Seconds of a step in which rewards were computed, and those of them that nothing else was done in. Far "
            "apart: the reward server keeps up. Close together: give it more replicas, or a faster judge.",
            (
                Query(_of("rft_train_reward_request_seconds"), "{{job}} computed"),
                Query(_of("rft_train_step_seconds", 'phase="reward"'), "{{job}} waited for"),
            ),
            "s",
        ),
        Panel(
            "Tokens per second",
            "Prompt and completion tokens. Steady, with gaps where the run validates or saves a checkpoint.",
            (Query(f"rate({_of('rft_train_tokens_total')}[$__rate_interval])", "{{job}}"),),
        ),
        Panel(
            "Age of the newest checkpoint",
            "Falls to 0 at every validation. What it shows is lost when the run's pods are lost.",
            (Query(f"time() - {_of('rft_train_checkpoint_timestamp_seconds')}", "{{job}}"),),
            "s",
        ),
        Panel(
            "Steps that were not finite",
            "Steps whose loss or gradient norm was NaN or infinite. 0. Three in a row end the run.",
            (Query(f"increase({_of('rft_train_nonfinite_steps_total')}[$__rate_interval])", "{{job}}"),),
        ),
    ),
)
