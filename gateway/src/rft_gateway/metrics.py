"""The Prometheus metrics of the gateway. No label has what a client may choose: models are those that exist."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from rft_api.gateway_routes import Route
from rft_gateway.usage import Usage

disable_created_metrics()  # type: ignore[no-untyped-call]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
KEPT_SECONDS = 600.0
"""Time for which the series of a model that was deleted are kept: Prometheus has read them then, and a tenant may make
any number of models one after another."""
_START_SECONDS = (1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)


class Metrics:
    """The metrics of one gateway, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.budgets = CollectorRegistry()
        """What is read from the limits of keys; the other one may be read by any thread."""
        registry = self.registry
        model = ["namespace", "model"]
        self._requests = Counter(
            "rft_gateway_requests",
            "Requests for a model, by outcome and status of HTTP",
            [*model, "outcome", "code"],
            registry=registry,
        )
        self._errors = Counter(
            "rft_gateway_errors",
            "Requests that were answered with an error, by its code",
            ["code"],
            registry=registry,
        )
        self._tokens = Counter(
            "rft_gateway_tokens",
            "Tokens, by kind: prompt, of these cached, and completion",
            [*model, "kind"],
            registry=registry,
        )
        self._without_usage = Counter(
            "rft_gateway_without_usage",
            "Answers whose server has not stated their usage: tokens of streams are estimated, others not counted",
            model,
            registry=registry,
        )
        self._first_token_seconds = Histogram(
            "rft_gateway_first_token_seconds",
            "Time from a request to the first part of its answer, in streams",
            model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._request_seconds = Histogram(
            "rft_gateway_request_seconds", "Time of a request", model, buckets=_SECONDS, registry=registry
        )
        self._ledger_seconds = Histogram(
            "rft_gateway_ledger_seconds",
            "Time until the usage of a request was durable",
            buckets=_SECONDS,
            registry=registry,
        )
        self._log_records = Counter(
            "rft_gateway_log_records",
            "Conversations and feedback for logs, by result: Kept, or why not",
            [*model, "result"],
            registry=registry,
        )
        self._log_failures = Counter(
            "rft_gateway_log_failures",
            "Attempts to write logs to their destination that have failed",
            ["namespace"],
            registry=registry,
        )
        self._waiting = Gauge("rft_gateway_waiting", "Requests that wait for a server", model, registry=registry)
        self._refused = Counter(
            "rft_gateway_refused",
            "Requests that were not answered because their model had no server, by the reason",
            [*model, "reason"],
            registry=registry,
        )
        self._cold_starts = Counter(
            "rft_gateway_cold_starts",
            "Times that requests have waited for the server of a base model, by outcome: Started, Failed, Abandoned",
            [*model, "outcome"],
            registry=registry,
        )
        self._cold_start_seconds = Histogram(
            "rft_gateway_cold_start_seconds",
            "Time from the first request that waits for a base model until a server takes one",
            model,
            buckets=_START_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("rft_gateway_in_flight", "Requests that are being answered", registry=registry)

        self._of_models = (
            self._requests, self._tokens, self._without_usage, self._first_token_seconds, self._request_seconds,
            self._log_records, self._waiting, self._refused, self._cold_starts, self._cold_start_seconds,
        )  # fmt: skip
        self._deleted: dict[tuple[str, str], float] = {}
        """The time since which models do not exist any more."""

    def keep_only(self, models: Collection[tuple[str, str]], now: float | None = None) -> None:
        """Forget the series of models that have not existed for some time.

        Args:
            models: namespace and name of those that exist.
            now: the time of the monotonic clock; by default the present one.
        """
        now = time.monotonic() if now is None else now
        names = {(labels[0], labels[1]) for metric in self._of_models for labels in list(metric._metrics)}
        self._deleted = {name: self._deleted.get(name, now) for name in names if name not in models}
        old = {name for name, since in self._deleted.items() if now - since >= KEPT_SECONDS}
        if not old:
            return
        for metric in self._of_models:
            for labels in list(metric._metrics):
                if (labels[0], labels[1]) in old:
                    metric.remove(*labels)

    def count_request(self, route: Route, outcome: str, status: int, seconds: float) -> None:
        """Count a request for a model."""
        self._requests.labels(route.namespace, route.model, outcome, str(status)).inc()
        self._request_seconds.labels(route.namespace, route.model).observe(seconds)
        self._without_usage.labels(route.namespace, route.model)  # 0 is shown, too

    def count_usage(self, route: Route, usage: Usage) -> None:
        """Count the tokens of a request."""
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ):
            if tokens:
                self._tokens.labels(route.namespace, route.model, kind).inc(tokens)

    def count_missing_usage(self, route: Route) -> None:
        """Count an answer without usage."""
        self._without_usage.labels(route.namespace, route.model).inc()

    def count_error(self, code: str) -> None:
        """Count a request that was answered with an error."""
        self._errors.labels(code).inc()

    def count_log_record(self, route: Route, result: str) -> None:
        """Count a record for the log of a model: Kept, or why it is not."""
        self._log_records.labels(route.namespace, route.model, result).inc()

    def count_log_failure(self, namespace: str) -> None:
        """Count an attempt to write logs to their destination that has failed."""
        self._log_failures.labels(namespace).inc()

    def watch_logs(self, records: Callable[[], float], size: Callable[[], float], age: Callable[[], float]) -> None:
        """Have the metrics tell what waits for its upload: its records, bytes, and the age of the oldest in seconds."""
        for name, text, value in (
            ("records", "Records that wait for their upload", records),
            ("bytes", "Bytes on the disk that wait for their upload", size),
            ("seconds", "Age of the oldest record that waits for its upload, about", age),
        ):
            Gauge(f"rft_gateway_log_waiting_{name}", text, registry=self.registry).set_function(value)

    def observe_first_token(self, route: Route, seconds: float) -> None:
        """Note how long a client has waited for the first part of a stream."""
        self._first_token_seconds.labels(route.namespace, route.model).observe(seconds)

    def observe_ledger(self, seconds: float) -> None:
        """Note how long an entry has waited until it was durable."""
        self._ledger_seconds.observe(seconds)

    def waiting(self, route: Route) -> AbstractContextManager[object]:
        """Count a request that waits, for as long as a block lasts."""
        return self._waiting.labels(route.namespace, route.model).track_inprogress()

    def count_refused(self, route: Route, reason: str) -> None:
        """Count a request that was not answered because its model had no server."""
        self._refused.labels(route.namespace, route.model, reason).inc()

    def count_cold_start(self, namespace: str, base: str, outcome: str) -> None:
        """Count that requests have waited for a base model."""
        self._cold_starts.labels(namespace, base, outcome).inc()

    def observe_cold_start(self, namespace: str, base: str, seconds: float) -> None:
        """Note how long it took until a server took a request."""
        self._cold_start_seconds.labels(namespace, base).observe(seconds)
