"""The dashboard of all jobs: which run, wait or have failed, and what they cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Variable, build_dashboard, rate

_NAMESPACE = 'namespace=~"$namespace"'


def build() -> Dashboard:
    """Build the dashboard."""
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
            "Most unfinished jobs are Running. When many are Retrying, Unschedulable or blocked for long, somebody "
            "should look at them.",
            (Query(f"count by (reason) ({_EVERY_JOB})", "{{reason}}"),),
        ),
        Panel(
            "Failures by reason",
            "Jobs that have ended without a result. Healthy: flat. When one reason grows in many namespaces, the cause "
            "is the platform.",
            (Query(f"count by (reason) ({_jobs('status', 'False')})", "{{reason}}"),),
        ),
        Panel(
            "Queue",
            "Jobs that Kueue has not admitted, by queue. Healthy: every queue becomes empty within a day. Otherwise "
            "its quota is too small.",
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
            "Jobs whose reward rises in a way that better answers do not explain. Healthy: none. Read the completions "
            "of the jobs that are listed.",
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
            "The algorithms and the models of all jobs.",
            (Query(f"count by (algorithm, model) (rft_job_info{{{_NAMESPACE}}})", "{{algorithm}} {{model}}"),),
        ),
    ),
)

_COSTS = Row(
    "Costs",
    (
        Panel(
            "GPU hours by namespace",
            "Number of GPUs times the hours for which pods held them, in the time range of the dashboard.",
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
            "GPUs that pods of jobs hold. Healthy: rises and falls with the jobs. The GPUs of a job that is stuck are "
            "wasted.",
            (
                Query(
                    rate("rft_job_gpu_seconds_total", _NAMESPACE, "namespace"),
                    "{{namespace}}",
                ),
            ),
        ),
        Panel(
            "GPU hours by job",
            "Since the start of each job, retries included.",
            (Query(f"sum by (namespace, job) (rft_job_gpu_seconds_total{{{_NAMESPACE}}}) / 3600", "GPU hours"),),
            kind="table",
        ),
    ),
)

_OPERATOR = Row(
    "Operator",
    (
        Panel(
            "Reconciliations per second",
            "Healthy: never 0 while jobs run, because each job is reconciled every 15 seconds. Single errors are "
            "normal, for example when the API server restarts.",
            (
                Query(
                    "sum by (kind, outcome) (rate(rft_operator_reconcile_seconds_count[$__rate_interval]))",
                    "{{kind}} {{outcome}}",
                ),
            ),
            "ops",
        ),
        Panel(
            "Time of a reconciliation, 95%",
            "Healthy: well below a second. Otherwise the API server is slow, or the pods that the operator asks are.",
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
            "Healthy: exactly 1, except for the seconds in which the leader changes.",
            (Query("sum(rft_operator_leader)", "leaders"),),
            kind="numbers",
        ),
    ),
)
