"""The dashboard of all jobs: what runs, what waits, what failed, and what it costs."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Variable, build_dashboard, rate

_NAMESPACE = 'namespace=~"$namespace"'


def build() -> Dashboard:
    """The dashboard."""
    return build_dashboard(
        "RFT / Fleet",
        "rft-fleet",
        "All jobs: what runs, what waits, what failed and why, and the GPU hours. What a reason means is in "
        "docs/reference/conditions.md.",
        (Variable("namespace", "Namespace", "label_values(rft_job_info, namespace)"),),
        (_JOBS, _COSTS, _OPERATOR),
    )


def _jobs(label: str, value: str) -> str:
    return f'rft_job_condition{{{_NAMESPACE}, type="Succeeded", {label}="{value}"}}'


_EVERY_JOB = f'rft_job_condition{{{_NAMESPACE}, type="Succeeded"}}'


_JOBS = Row(
    "Jobs",
    (
        Panel(
            "Unfinished",
            "Jobs that can still go on. As many as you expect.",
            (Query(f"count({_jobs('status', 'Unknown')}) or vector(0)", "jobs"),),
            kind="numbers",
            span=4,
        ),
        Panel(
            "Succeeded",
            "Jobs that have ended with a result and were not deleted.",
            (Query(f"count({_jobs('status', 'True')}) or vector(0)", "jobs"),),
            kind="numbers",
            span=4,
        ),
        Panel(
            "By condition",
            "Most unfinished jobs are Running. Many that are Retrying, Unschedulable or blocked for long need a "
            "person.",
            (Query(f"count by (reason) ({_EVERY_JOB})", "{{reason}}"),),
        ),
        Panel(
            "Failures by reason",
            "Jobs that have ended without a result. Flat. One reason that grows in many namespaces is the platform's.",
            (Query(f"count by (reason) ({_jobs('status', 'False')})", "{{reason}}"),),
        ),
        Panel(
            "Queue",
            "Jobs that Kueue has not admitted, by queue. Empties over a day; if not, the queue's quota is too small.",
            (
                Query(
                    f"count by (queue) (rft_job_info{{{_NAMESPACE}}} * on (namespace, job) group_left() "
                    f"{_jobs('reason', 'Queued')})",
                    "{{queue}}",
                ),
            ),
        ),
        Panel(
            "Suspected reward hacking",
            "Jobs whose reward rises in a way that better answers do not explain. None; read the completions of those "
            "that are here.",
            (
                Query(
                    f'count by (namespace, job) (rft_job_condition{{{_NAMESPACE}, type="RewardHackingSuspected", '
                    f'status="True"}})',
                    "{{namespace}} {{job}}",
                ),
            ),
        ),
        Panel(
            "Jobs by algorithm and model",
            "What the fleet trains.",
            (Query(f"count by (algorithm, model) (rft_job_info{{{_NAMESPACE}}})", "{{algorithm}} {{model}}"),),
        ),
    ),
)

_COSTS = Row(
    "Costs",
    (
        Panel(
            "GPU hours by namespace",
            "GPUs times the hours that pods held them, in the time range above.",
            (
                Query(
                    f"sum by (namespace) (increase(rft_job_gpu_seconds_total{{{_NAMESPACE}}}[$__range])) / 3600",
                    "{{namespace}}",
                ),
            ),
            kind="numbers",
        ),
        Panel(
            "GPUs held",
            "GPUs that pods of jobs hold. Steps up and down with jobs; what a stuck job holds is lost.",
            (
                Query(
                    rate("rft_job_gpu_seconds_total", _NAMESPACE, "namespace"),
                    "{{namespace}}",
                ),
            ),
        ),
        Panel(
            "GPU hours by job",
            "Of a job's whole life, retries included.",
            (Query(f"sum by (namespace, job) (rft_job_gpu_seconds_total{{{_NAMESPACE}}}) / 3600", "GPU hours"),),
            kind="table",
        ),
    ),
)

_OPERATOR = Row(
    "Operator",
    (
        Panel(
            "Passes per second",
            "Never 0 while jobs run: each is looked at every 15 seconds. Errors are single, as when the API server "
            "restarts.",
            (
                Query(
                    "sum by (kind, outcome) (rate(rft_operator_reconcile_seconds_count[$__rate_interval]))",
                    "{{kind}} {{outcome}}",
                ),
            ),
            "ops",
        ),
        Panel(
            "Time of a pass, 95%",
            "Well below a second. Slower: the API server or the pods that are asked are slow.",
            (
                Query(
                    "histogram_quantile(0.95, sum by (kind, le) "
                    "(rate(rft_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    "{{kind}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Leaders",
            "Exactly 1, but for the seconds of a change.",
            (Query("sum(rft_operator_leader)", "leaders"),),
            kind="numbers",
        ),
    ),
)
