"""The dashboard of endpoints: their requests, tokens, latency, adapters and replicas."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from rft_charts.dashboards.panels import Panel, Query, Row, Servers, Variable, build_dashboard, quantiles, rate

_SERVERS = Servers("endpoint")
_MODELS = 'namespace=~"$namespace", model=~"$endpoint"'
"""Selector of the gateway's metrics, which have the names of models: those of endpoints."""
_MODEL = "{{namespace}}/{{model}}"


def build() -> Dashboard:
    """Build the dashboard."""
    return build_dashboard(
        "RFT / Serving",
        "rft-serving",
        "InferenceEndpoints: requests, tokens, latency, adapters, replicas, and the gateway. At servers, requests to "
        "an adapter count for the base endpoint.",
        (
            Variable("namespace", "Namespace", "label_values(rft_endpoint_info, namespace)"),
            Variable("endpoint", "Endpoint", 'label_values(rft_endpoint_info{namespace=~"$namespace"}, endpoint)'),
        ),
        (_REQUESTS, _LATENCY, _ENDPOINTS, _GATEWAY),
    )


def _sum(metric: str) -> str:
    return f"sum by ({_SERVERS.by}) ({metric}{{{_SERVERS.selector}}})"


def _latency(title: str, description: str, metric: str) -> Panel:
    return Panel(title, description, _SERVERS.quantiles(metric), "s")


def _rate(metric: str, by: str = "") -> str:
    """Return the expression of the rate at which a counter of the gateway grows per second, for each model."""
    return rate(metric, _MODELS, f"namespace, model, {by}" if by else "namespace, model")


def _quantiles(metric: str) -> tuple[Query, ...]:
    """Return the queries of the median and the 95 % quantile of each model, at the gateway."""
    return quantiles(_rate(f"{metric}_bucket", "le"), _MODEL)


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
            "Healthy: as many as spec.replicas, or with spec.autoscale as the requests need, which can be none.",
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

_GATEWAY = Row(
    "Gateway",
    (
        Panel(
            "Requests by outcome",
            "Healthy: `Answered`. `ClientLeft` are clients that disconnected, `Refused` requests that a server found "
            "wrong, `GatewayStopped` those for which the gateway had no time when it stopped, and `ServerFailed` "
            "failures of servers.",
            (Query(_rate("rft_gateway_requests_total", "outcome"), f"{_MODEL} {{{{outcome}}}}"),),
            "reqps",
        ),
        Panel(
            "Tokens of users",
            "Tokens per second that are recorded for keys, by kind. `cached` is the part of `prompt` that servers had "
            "in their caches.",
            (Query(_rate("rft_gateway_tokens_total", "kind"), f"{_MODEL} {{{{kind}}}}"),),
        ),
        Panel(
            "Errors by code",
            "Requests that were answered with an error. Healthy: mistakes of callers only, such as `invalid_api_key` "
            "and `rate_limit_exceeded`.",
            (Query("sum by (code) (rate(rft_gateway_errors_total[$__rate_interval]))", "{{code}}"),),
            "reqps",
        ),
        Panel(
            "Time to the first part of a stream",
            "As clients see it: with the time at the gateway, and waiting for a model that starts.",
            _quantiles("rft_gateway_first_token_seconds"),
            "s",
        ),
        Panel(
            "Time of a request at the gateway",
            "Grows with the length of the answers.",
            _quantiles("rft_gateway_request_seconds"),
            "s",
        ),
        Panel(
            "Requests in flight and waiting",
            "Requests that the pods of the gateway are answering. Those that wait have no server yet, because their "
            "model is starting.",
            (
                Query("sum(rft_gateway_in_flight)", "in flight"),
                Query(f"sum by (namespace, model) (rft_gateway_waiting{{{_MODELS}}})", f"{_MODEL} waiting"),
            ),
        ),
        Panel(
            "Cold starts",
            "Times that requests have waited for the first server pod of a base model. Healthy: `Started`. `Failed` "
            "starts took longer than coldStart.timeout, or could not succeed; `Abandoned`: nobody waits any more.",
            (Query(_rate("rft_gateway_cold_starts_total", "outcome"), f"{_MODEL} {{{{outcome}}}}"),),
        ),
        Panel(
            "Time of a cold start",
            "From the first request that waits until a server takes it.",
            _quantiles("rft_gateway_cold_start_seconds"),
            "s",
        ),
        Panel(
            "Time of the ledger",
            "Time until the usage of a request is on the disk. Every answer waits for it. Healthy: some milliseconds.",
            quantiles("sum by (le) (rate(rft_gateway_ledger_seconds_bucket[$__rate_interval]))", ""),
            "s",
        ),
        Panel(
            "Age of conversations that wait",
            "Age of the oldest conversation that waits for its upload to a log. Healthy: below 2 minutes.",
            (Query("max by (pod) (rft_gateway_log_waiting_seconds)", "{{pod}}"),),
            "s",
        ),
        Panel(
            "Answers without usage",
            "Answers whose server did not state their tokens: estimated in streams, else not counted. Healthy: 0.",
            (Query(_rate("rft_gateway_without_usage_total"), _MODEL),),
            "reqps",
        ),
    ),
)
