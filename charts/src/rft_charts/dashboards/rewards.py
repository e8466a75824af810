"""The dashboard of reward servers: whether they keep up, what they cannot score, and what scores look like."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Servers, Variable, build_dashboard

_SERVERS = Servers("reward")


def build() -> Dashboard:
    """The dashboard."""
    return build_dashboard(
        "RFT / Rewards",
        "rft-rewards",
        "Reward servers: whether they keep up, what they cannot score, and what scores look like. docs/rewards.md "
        "says what each error means.",
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
            "Comes in bursts, one a training step, and is 0 between them.",
            (Query(_SERVERS.rate("rft_reward_samples_total", more='outcome="scored"'), _SERVERS.name),),
        ),
        Panel(
            "Latency of a batch",
            "Time to score a request. Steady, and small beside the time of a training step.",
            _SERVERS.quantiles("rft_reward_batch_seconds_bucket"),
            "s",
        ),
        Panel(
            "Wait for a worker",
            "Near 0. Higher: raise sandbox.processes or replicas of the RewardFunction.",
            _SERVERS.quantiles("rft_reward_queue_seconds_bucket"),
            "s",
        ),
        Panel(
            "Distribution of scores",
            "Moves upwards as training goes on, and keeps some width. All in one bucket: the reward tells nothing "
            "apart.",
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
            "Rise together, or one after the other.",
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
            "None. Such samples are left out of training, which does not see that kind of completion at all.",
            (
                Query(_SERVERS.rate("rft_reward_samples_total", more='outcome="failed"'), f"{_SERVERS.name} all"),
                Query(_SERVERS.rate("rft_reward_sample_errors_total", "reason"), f"{_SERVERS.name} {{{{reason}}}}"),
            ),
        ),
        Panel(
            "Answers by HTTP status",
            "Only 200. 401 is a caller without the token, 5xx the server itself.",
            (Query(_SERVERS.rate("rft_reward_requests_total", "code"), f"{_SERVERS.name} {{{{code}}}}"),),
            "reqps",
        ),
        Panel(
            "Workers replaced",
            "None. A worker is replaced when the reward's code runs out of time or memory, or ends its process.",
            (Query(_SERVERS.rate("rft_reward_worker_restarts_total", "reason"), f"{_SERVERS.name} {{{{reason}}}}"),),
        ),
        Panel(
            "Workers by state",
            "Busy in bursts. Always all busy: too few.",
            (
                Query(
                    f"sum by ({_SERVERS.by}, state) (rft_reward_workers{{{_SERVERS.selector}}})",
                    f"{_SERVERS.name} {{{{state}}}}",
                ),
            ),
        ),
        Panel(
            "Servers that isolate workers",
            "1 on every server: its files, other workers and the network are out of reach of reward code. 0: the "
            "server's log says what the node's kernel lacks.",
            (Query(f"min by ({_SERVERS.by}) (rft_reward_isolated{{{_SERVERS.selector}}})", _SERVERS.name),),
        ),
        Panel(
            "Reward functions that are not Ready",
            "None, but for the seconds of a start.",
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
            "Nearly all are ok. Others are tried again, and cost time and tokens.",
            (Query(_SERVERS.rate("rft_reward_judge_requests_total", "outcome"), f"{_SERVERS.name} {{{{outcome}}}}"),),
            "reqps",
        ),
        Panel(
            "Latency of judges",
            "Steady. It is the largest part of a batch's latency.",
            _SERVERS.quantiles("rft_reward_judge_seconds_bucket"),
            "s",
        ),
        Panel(
            "Tokens of judges",
            "Per second, of prompts and of answers: what a judge costs.",
            (Query(_SERVERS.rate("rft_reward_judge_tokens_total", "kind"), f"{_SERVERS.name} {{{{kind}}}}"),),
        ),
        Panel(
            "Judged before",
            "Samples per second that needed no request, because the same was judged already. Rises as the model "
            "settles.",
            (Query(_SERVERS.rate("rft_reward_judge_cache_hits_total"), _SERVERS.name),),
        ),
        Panel(
            "Requests to Lambdas and HTTP rewards",
            "By outcome; nearly all are ok.",
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
