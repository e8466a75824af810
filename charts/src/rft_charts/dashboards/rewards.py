"""The dashboard of reward servers: whether they are fast enough, what they cannot score, and how scores develop."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Servers, Variable, build_dashboard

_SERVERS = Servers("reward")


def build() -> Dashboard:
    """Build the dashboard."""
    return build_dashboard(
        "RFT / Rewards",
        "rft-rewards",
        "Reward servers: whether they are fast enough, what they cannot score, and how scores develop. "
        "docs/rewards.md says what each error means.",
        (
            Variable("namespace", "Namespace", "label_values(rft_reward_workers, namespace)"),
            Variable("reward", "Reward", 'label_values(rft_reward_workers{namespace=~"$namespace"}, rft_dev_owner)'),
        ),
        (_SCORES, _ERRORS, _JUDGES),
    )


_SCORES = Row(
    "Scores",
    (
        Panel(
            "Scores per second",
            "Healthy: a burst in each training step, and 0 between the bursts.",
            (Query(_SERVERS.rate("rft_reward_samples_total", more='outcome="scored"'), _SERVERS.name),),
        ),
        Panel(
            "Latency of a batch",
            "Time to score a request. Healthy: steady, and much shorter than a training step.",
            _SERVERS.quantiles("rft_reward_batch_seconds_bucket"),
            "s",
        ),
        Panel(
            "Wait for a worker",
            "Healthy: near 0. Otherwise raise sandbox.processes or replicas of the RewardFunction.",
            _SERVERS.quantiles("rft_reward_queue_seconds_bucket"),
            "s",
        ),
        Panel(
            "Distribution of scores",
            "Healthy: moves upwards during the training, and keeps some width. When all scores are in one bucket, the "
            "reward does not distinguish good from bad completions.",
            (
                Query(
                    f"sum by (le) (increase(rft_reward_score_bucket{{{_SERVERS.selector}}}[$__rate_interval]))",
                    "{{le}}",
                ),
            ),
            kind="distribution",
            span=12,
        ),
        Panel(
            "Mean of each component",
            "Healthy: the components rise together, or one after the other.",
            (
                Query(
                    " / ".join(_SERVERS.rate(f"rft_reward_component_{part}", "component") for part in ("sum", "count")),
                    f"{_SERVERS.name} {{{{component}}}}",
                ),
            ),
            span=12,
        ),
    ),
)

_ERRORS = Row(
    "Errors",
    (
        Panel(
            "Samples without a score, by reason",
            "Healthy: none. Training leaves such samples out, so it does not learn from completions of this kind.",
            (
                Query(_SERVERS.rate("rft_reward_samples_total", more='outcome="failed"'), f"{_SERVERS.name} all"),
                Query(_SERVERS.rate("rft_reward_sample_errors_total", "reason"), f"{_SERVERS.name} {{{{reason}}}}"),
            ),
        ),
        Panel(
            "Answers by HTTP status",
            "Healthy: only 200. 401 means a caller without the token; 5xx is an error of the server.",
            (Query(_SERVERS.rate("rft_reward_requests_total", "code"), f"{_SERVERS.name} {{{{code}}}}"),),
            "reqps",
        ),
        Panel(
            "Workers replaced",
            "Healthy: none. A worker is replaced when the reward's code exceeds its time or memory, or ends its "
            "process.",
            (Query(_SERVERS.rate("rft_reward_worker_restarts_total", "reason"), f"{_SERVERS.name} {{{{reason}}}}"),),
        ),
        Panel(
            "Workers by state",
            "Healthy: busy in bursts. When all are always busy, there are too few.",
            (
                Query(
                    f"sum by ({_SERVERS.by}, state) (rft_reward_workers{{{_SERVERS.selector}}})",
                    f"{_SERVERS.name} {{{{state}}}}",
                ),
            ),
        ),
        Panel(
            "Servers that isolate workers",
            "Healthy: 1 on every server, which means that reward code cannot reach the server's files, other workers "
            "or the network. At 0, the log of the server says what the kernel of the node lacks.",
            (Query(f"min by ({_SERVERS.by}) (rft_reward_isolated{{{_SERVERS.selector}}})", _SERVERS.name),),
        ),
        Panel(
            "Reward functions that are not Ready",
            "Healthy: none, except for the seconds of a start.",
            (
                Query(
                    'rft_reward_function_condition{namespace=~"$namespace", reward_function=~"$reward", type="Ready", '
                    'status!="True"}',
                    "{{reward_function}} {{reason}}",
                ),
            ),
        ),
    ),
)

_JUDGES = Row(
    "Judges, Lambdas and HTTP rewards",
    (
        Panel(
            "Requests to judges, by outcome",
            "Healthy: nearly all are ok. The others are tried again, which costs time and tokens.",
            (Query(_SERVERS.rate("rft_reward_judge_requests_total", "outcome"), f"{_SERVERS.name} {{{{outcome}}}}"),),
            "reqps",
        ),
        Panel(
            "Latency of judges",
            "Healthy: steady. It is the largest part of the latency of a batch.",
            _SERVERS.quantiles("rft_reward_judge_seconds_bucket"),
            "s",
        ),
        Panel(
            "Tokens of judges",
            "Tokens of prompts and of answers per second, which determine the cost of a judge.",
            (Query(_SERVERS.rate("rft_reward_judge_tokens_total", "kind"), f"{_SERVERS.name} {{{{kind}}}}"),),
        ),
        Panel(
            "Judged before",
            "Samples per second that needed no request, because the same completion was judged before. Rises when the "
            "model gives the same answers more often.",
            (Query(_SERVERS.rate("rft_reward_judge_cache_hits_total"), _SERVERS.name),),
        ),
        Panel(
            "Requests to Lambdas and HTTP rewards",
            "Healthy: nearly all are ok.",
            (
                Query(
                    _SERVERS.rate("rft_reward_remote_requests_total", "grader, outcome"),
                    f"{_SERVERS.name} {{{{grader}}}} {{{{outcome}}}}",
                ),
            ),
            "reqps",
        ),
    ),
)
