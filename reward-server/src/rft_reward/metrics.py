"""The Prometheus metrics of the reward server."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from rft_api.component_names import MOST_RECORDED_NAMES, component_name

_SCORE_BOUNDS = (-1.0, -0.5, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0, 5.0)
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one server, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("rft_reward_requests", "Requests to score, by HTTP status", ["code"], registry=registry)
        self.samples = Counter("rft_reward_samples", "Samples, by outcome", ["outcome"], registry=registry)
        self.sample_errors = Counter(
            "rft_reward_sample_errors", "Samples without a score, by reason", ["reason"], registry=registry
        )
        self.sample_warnings = Counter(
            "rft_reward_sample_warnings", "Samples with a score and a warning, by reason", ["reason"], registry=registry
        )
        self.batch_seconds = Histogram(
            "rft_reward_batch_seconds",
            "Time to score a request's samples",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "rft_reward_queue_seconds",
            "Time that samples waited for a worker",
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.workers = Gauge("rft_reward_workers", "Workers, by state", ["state"], registry=registry)
        self.restarts = Counter(
            "rft_reward_worker_restarts", "Workers replaced, by reason", ["reason"], registry=registry
        )
        self.isolation = Gauge(
            "rft_reward_isolated",
            "Whether the server, its files, other workers and the network are out of reach of reward code",
            registry=registry,
        )
        self.layers = Gauge(
            "rft_reward_sandbox_layer", "Layers of the sandbox that there are (1)", ["layer"], registry=registry
        )
        self.judge_requests = Counter(
            "rft_reward_judge_requests", "Requests to judges, by outcome", ["outcome"], registry=registry
        )
        self.judge_tokens = Counter(
            "rft_reward_judge_tokens", "Tokens of judges: of prompts and of answers", ["kind"], registry=registry
        )
        self.judge_seconds = Histogram(
            "rft_reward_judge_seconds",
            "Time of one request to a judge",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.judge_cache_hits = Counter(
            "rft_reward_judge_cache_hits", "Samples that were judged before, or are right now", registry=registry
        )
        self.remote_requests = Counter(
            "rft_reward_remote_requests",
            "Requests to Lambdas and HTTP rewards, by outcome",
            ["grader", "outcome"],
            registry=registry,
        )
        self._scores = _Scores()
        registry.register(self._scores)
        for outcome in ("scored", "failed"):
            self.samples.labels(outcome)

    def count_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count the rows of one response."""
        scored = [row for row in rows if row["aggregate_reward_score"] is not None]
        self.samples.labels("scored").inc(len(scored))
        self.samples.labels("failed").inc(len(rows) - len(scored))
        for row in scored:
            for reason in {warning["reason"] for warning in row.get("warnings", ())}:
                self.sample_warnings.labels(reason).inc()
        self._scores.add(scored)


class _Scores(Collector):
    """Collects scores and their components. The classes of the library take more time per value than scoring does."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(_SCORE_BOUNDS) + 1)
        self._sum = 0.0
        self._component_counts: Tally[str] = Tally()
        self._component_sums: dict[str, float] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add scored rows."""
        for row in rows:
            score = row["aggregate_reward_score"]
            self._buckets[bisect_left(_SCORE_BOUNDS, score)] += 1
            self._sum += score
            for component in row["metrics_list"]:
                # Each name is recordable, but a term and its component, or a grader of OpenAI's, may name a longer one.
                name = component_name(component["name"])
                if name not in self._component_sums:
                    # The names come from code of users, so the number of series is limited.
                    if len(self._component_sums) >= MOST_RECORDED_NAMES:
                        continue
                    self._component_sums[name] = 0.0
                self._component_counts[name] += 1
                self._component_sums[name] += component["value"]

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families, as the library asks for them."""
        total, cumulated = 0, []
        for bound, count in zip((*map(str, _SCORE_BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            cumulated.append((bound, total))
        yield HistogramMetricFamily("rft_reward_score", "Scores", buckets=cumulated, sum_value=self._sum)
        components = SummaryMetricFamily(
            "rft_reward_component", "Values of the components; sum by count is the mean", labels=["component"]
        )
        for name, value in self._component_sums.items():
            components.add_metric([name], self._component_counts[name], value)
        yield components
