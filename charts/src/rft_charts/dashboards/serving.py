"""The dashboard of endpoints: what they serve, how fast, and with how much."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Servers, Variable, build_dashboard

_SERVERS = Servers("endpoint")


def build() -> Dashboard:
    """The dashboard."""
    return build_dashboard(
        "RFT / Serving",
        "rft-serving",
        "InferenceEndpoints: requests, tokens, latency, adapters, replicas. Requests to an adapter count for the "
        "endpoint whose server it is on.",
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
            "By how they ended: `stop` is a whole answer, `length` one that was cut off, `abort` a caller that went "
            "away.",
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
            "2xx. 4xx are the callers' mistakes, often a wrong model name; 5xx are the server's.",
            (Query(_SERVERS.rate("http_requests_total", "status"), f"{_SERVERS.name} {{{{status}}}}"),),
            "reqps",
        ),
        Panel(
            "Running and waiting",
            "Waiting near 0. When it stays above 0 there are too few replicas.",
            (
                Query(_sum("vllm:num_requests_running"), f"{_SERVERS.name} running"),
                Query(_sum("vllm:num_requests_waiting"), f"{_SERVERS.name} waiting"),
            ),
        ),
        Panel(
            "Tokens per second",
            "Of prompts and of answers. The answers' rate stops rising where the server is at its limit.",
            (
                Query(_SERVERS.rate("vllm:prompt_tokens_total"), f"{_SERVERS.name} prompts"),
                Query(_SERVERS.rate("vllm:generation_tokens_total"), f"{_SERVERS.name} answers"),
            ),
        ),
        Panel(
            "Key-value cache in use",
            "Below 1. At 1 requests wait, or are interrupted and computed again.",
            (Query(f"max by ({_SERVERS.by}) (vllm:kv_cache_usage_perc{{{_SERVERS.selector}}})", _SERVERS.name),),
            "percentunit",
        ),
        Panel(
            "Prompt tokens found in the cache",
            "Share of prompt tokens that need not be computed. High where prompts begin alike.",
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
            "Steady. A rise with requests waiting is a queue, without one it is longer prompts.",
            "vllm:time_to_first_token_seconds_bucket",
        ),
        _latency(
            "Time between tokens",
            "Steady; grows a little with more requests at once.",
            "vllm:inter_token_latency_seconds_bucket",
        ),
        _latency(
            "Time of a whole request",
            "Follows the length of answers.",
            "vllm:e2e_request_latency_seconds_bucket",
        ),
    ),
)

_ENDPOINTS = Row(
    "Endpoints",
    (
        Panel(
            "Ready replicas",
            "As many as spec.replicas asks for.",
            (Query('rft_endpoint_replicas{namespace=~"$namespace", endpoint=~"$endpoint"}', "{{endpoint}}"),),
        ),
        Panel(
            "Adapters by server",
            "Adapters that endpoints ask a server for. At most serving.maxAdapters of it are in use at once; more take "
            "turns.",
            (Query('count by (namespace, base) (rft_endpoint_info{namespace=~"$namespace", base!=""})', "{{base}}"),),
        ),
        Panel(
            "Endpoints by condition",
            "Ready. Others say why not; docs/reference/conditions.md has every reason.",
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
