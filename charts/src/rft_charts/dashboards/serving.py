"""The dashboard of endpoints: their requests, tokens, latency, adapters and replicas."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Servers, Variable, build_dashboard

_SERVERS = Servers("endpoint")


def build() -> Dashboard:
    """Build the dashboard."""
    return build_dashboard(
        "RFT / Serving",
        "rft-serving",
        "InferenceEndpoints: requests, tokens, latency, adapters, replicas. Requests to an adapter count for the base "
        "endpoint.",
        (
            Variable("namespace", "Namespace", "label_values(rft_endpoint_info, namespace)"),
            Variable("endpoint", "Endpoint", 'label_values(rft_endpoint_info{namespace=~"$namespace"}, endpoint)'),
        ),
        (_REQUESTS, _LATENCY, _ENDPOINTS),
    )


def _sum(metric: str) -> str:
    return f"sum by ({_SERVERS.by}) ({metric}{{{_SERVERS.selector}}})"


def _latency(title: str, description: str, metric: str) -> Panel:
    return Panel(title, description, _SERVERS.quantiles(metric), "s")


_REQUESTS = Row(
    "Requests and tokens",
    (
        Panel(
            "Finished requests",
            "By the way they ended: `stop` is a complete answer, `length` an answer that was cut off, `abort` a "
            "request whose caller disconnected.",
            (
                Query(
                    _SERVERS.rate("vllm:request_success_total", "finished_reason"),
                    f"{_SERVERS.name} {{{{finished_reason}}}}",
                ),
            ),
            "reqps",
        ),
        Panel(
            "Answers by HTTP status",
            "Healthy: only 2xx. 4xx are mistakes of callers, often a wrong model name; 5xx are errors of the server.",
            (Query(_SERVERS.rate("http_requests_total", "status"), f"{_SERVERS.name} {{{{status}}}}"),),
            "reqps",
        ),
        Panel(
            "Running and waiting",
            "Healthy: the number of waiting requests is near 0. When it stays above 0, there are too few replicas.",
            (
                Query(_sum("vllm:num_requests_running"), f"{_SERVERS.name} running"),
                Query(_sum("vllm:num_requests_waiting"), f"{_SERVERS.name} waiting"),
            ),
        ),
        Panel(
            "Tokens per second",
            "Tokens of prompts and of answers. The rate of answers stops rising when the server is at its limit.",
            (
                Query(_SERVERS.rate("vllm:prompt_tokens_total"), f"{_SERVERS.name} prompts"),
                Query(_SERVERS.rate("vllm:generation_tokens_total"), f"{_SERVERS.name} answers"),
            ),
        ),
        Panel(
            "Key-value cache in use",
            "Healthy: below 1. At 1, requests wait, or are interrupted and computed again.",
            (Query(f"max by ({_SERVERS.by}) (vllm:kv_cache_usage_perc{{{_SERVERS.selector}}})", _SERVERS.name),),
            "percentunit",
        ),
        Panel(
            "Prompt tokens found in the cache",
            "Share of the prompt tokens that need not be computed. High when prompts begin with the same text.",
            (
                Query(
                    " / ".join(_SERVERS.rate(f"vllm:prefix_cache_{part}_total") for part in ("hits", "queries")),
                    _SERVERS.name,
                ),
            ),
            "percentunit",
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        _latency(
            "Time to the first token",
            "Healthy: steady. When it rises while requests wait, there is a queue; otherwise prompts have become "
            "longer.",
            "vllm:time_to_first_token_seconds_bucket",
        ),
        _latency(
            "Time between tokens",
            "Healthy: steady. Grows a little with more requests at once.",
            "vllm:inter_token_latency_seconds_bucket",
        ),
        _latency(
            "Time of a whole request",
            "Grows with the length of the answers.",
            "vllm:e2e_request_latency_seconds_bucket",
        ),
    ),
)

_ENDPOINTS = Row(
    "Endpoints",
    (
        Panel(
            "Ready replicas",
            "Healthy: as many as spec.replicas.",
            (Query('rft_endpoint_replicas{namespace=~"$namespace", endpoint=~"$endpoint"}', "{{endpoint}}"),),
        ),
        Panel(
            "Adapters by server",
            "Adapters that endpoints have on a server. At most serving.maxAdapters of them are in use at once; more "
            "take turns.",
            (Query('count by (namespace, base) (rft_endpoint_info{namespace=~"$namespace", base!=""})', "{{base}}"),),
        ),
        Panel(
            "Endpoints by condition",
            "Healthy: Ready. The other reasons say why an endpoint is not ready; docs/reference/conditions.md explains "
            "them.",
            (
                Query(
                    'count by (reason) (rft_endpoint_condition{namespace=~"$namespace", endpoint=~"$endpoint", '
                    'type="Ready"})',
                    "{{reason}}",
                ),
            ),
        ),
    ),
)
