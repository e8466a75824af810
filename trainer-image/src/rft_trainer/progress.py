"""Where the run stands, served over HTTP: `/progress` as JSON and `/metrics` for Prometheus."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rft_api.metrics import TrainMetrics, ValidationMetrics
from rft_api.progress import HackingVerdict, Progress

_LABELS = ("namespace", "job")


class ProgressReporter:
    """Keeps the progress and the metrics of one run; rank 0 serves them.

    The names of the metrics are part of the project's contract: dashboards and alerts are built on them. What has not
    been measured is absent: a curve does not begin with a 0 that nobody saw.
    """

    def __init__(self, namespace: str, job: str):
        self.progress = Progress()
        self.registry = CollectorRegistry()
        self._labels = {"namespace": namespace, "job": job}
        self._reward = self._gauge("rft_train_reward_mean", "Mean reward.", "split")
        self._component = self._gauge("rft_train_reward_component_mean", "Mean of a component.", "component", "split")
        self._reward_std = self._gauge("rft_train_reward_std", "Standard deviation of the rewards.")
        self._length = self._gauge("rft_train_episode_length_tokens_mean", "Mean completion tokens.", "split")
        self._gradient_norm = self._gauge("rft_train_gradient_norm", "Gradient norm before clipping.")
        self._advantage_mean = self._gauge("rft_train_advantage_mean", "Mean advantage; near 0 by construction.")
        self._advantage_std = self._gauge("rft_train_advantage_std", "Standard deviation of the advantages.")
        self._advantage_abs = self._gauge("rft_train_advantage_abs_mean", "Mean absolute advantage.")
        self._entropy = self._gauge("rft_train_policy_entropy", "Mean token entropy in nats.")
        self._kl = self._gauge("rft_train_kl_divergence", "Mean KL divergence from the reference model in nats.")
        self._zero_variance = self._gauge(
            "rft_train_zero_variance_group_ratio", "Share of prompts whose completions all got the same reward."
        )
        self._clipped = self._gauge("rft_train_clipped_completion_ratio", "Share of completions cut off by length.")
        self._step = self._gauge("rft_train_step", "Optimizer steps done.")
        self._planned = self._gauge("rft_train_planned_steps", "Optimizer steps planned.")
        self._seconds = self._gauge("rft_train_step_seconds", "Seconds of the last step, by phase.", "phase")
        self._tokens = self._counter("rft_train_tokens", "Prompt and completion tokens processed.")
        self._not_finite = self._counter(
            "rft_train_nonfinite_steps", "Steps whose loss or gradient norm was not finite."
        )
        self._checkpoint = self._gauge(
            "rft_train_checkpoint_timestamp_seconds",
            "When the newest checkpoint was complete; until there is one, when training began.",
        )
        self._request_seconds = self._gauge(
            "rft_train_reward_request_seconds", "Seconds of the last step in which rewards were being computed."
        )
        self._failed = self._counter("rft_train_rewards_failed", "Samples that could not be scored.")
        self._shadow = self._gauge("rft_train_shadow_reward_mean", "Mean of a shadow reward.", "shadow", "split")
        self._shadow_failed = Counter(
            "rft_train_shadow_rewards_failed",
            "Samples that a shadow could not score.",
            [*_LABELS, "shadow"],
            registry=self.registry,
        )
        self._hacking = self._gauge(
            "rft_train_reward_hacking_suspected", "1 when the reward rises while a shadow falls, else 0."
        )

    def update(self, **fields: Any) -> None:
        """Changes fields of the progress (snake_case names of `rft_api.progress.Progress`)."""
        self.progress = self.progress.model_copy(update=fields)

    def plan(self, total_steps: int, done: int = 0) -> None:
        """Announces how many steps the run will take, and how many an earlier attempt has done."""
        self.update(total_steps=total_steps)
        self._set(self._planned, total_steps)
        self._set(self._step, done)
        self.record_checkpoint()

    def record_step(self, metrics: TrainMetrics, new_tokens: int) -> None:
        """Publishes a training step."""
        self._set(self._step, metrics.step)
        self._set(self._reward, metrics.reward, split="train")
        for name, value in metrics.components.items():
            self._set(self._component, value, component=name, split="train")
        self._set(self._reward_std, metrics.reward_std)
        self._set(self._length, metrics.episode_length, split="train")
        self._set(self._gradient_norm, metrics.gradient_norm)
        self._set(self._advantage_mean, metrics.advantage_mean)
        self._set(self._advantage_std, metrics.advantage_std)
        self._set(self._advantage_abs, metrics.advantage_abs_mean)
        self._set(self._entropy, metrics.policy_entropy)
        self._set(self._kl, metrics.kl_divergence)
        self._set(self._zero_variance, metrics.zero_variance_group_ratio)
        self._set(self._clipped, metrics.clipped_completion_ratio)
        for phase in ("generate", "reward", "update"):
            self._set(self._seconds, getattr(metrics, f"{phase}_seconds"), phase=phase)
        self._set(self._request_seconds, metrics.reward_request_seconds)
        self._tokens.inc(new_tokens)
        self._failed.inc(metrics.rewards_failed)
        self._record_shadows(metrics)
        if metrics.loss is None or metrics.gradient_norm is None:
            self._not_finite.inc()

    def record_checkpoint(self) -> None:
        """Publishes that a checkpoint is complete."""
        self._set(self._checkpoint, time.time())

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Publishes a validation."""
        self.update(validation_reward=metrics.reward)
        self._set(self._reward, metrics.reward, split="validation")
        for name, value in metrics.components.items():
            self._set(self._component, value, component=name, split="validation")
        self._set(self._length, metrics.episode_length, split="validation")
        self._failed.inc(metrics.rewards_failed)
        self._record_shadows(metrics)

    def record_hacking(self, verdict: HackingVerdict) -> None:
        """Publishes what comparing the reward with its shadows says."""
        self.update(reward_hacking=verdict)
        self._set(self._hacking, verdict.suspected)

    def _record_shadows(self, metrics: TrainMetrics | ValidationMetrics) -> None:
        for name, scores in metrics.shadows.items():
            self._set(self._shadow, scores.reward, shadow=name, split=metrics.split)
            self._shadow_failed.labels(**self._labels, shadow=name).inc(scores.failed)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, [*_LABELS, *labels], registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self.registry).labels(**self._labels)

    def _set(self, gauge: Gauge, value: float | None, **labels: str) -> None:
        if value is not None:
            gauge.labels(**self._labels, **labels).set(value)


def serve_progress(reporter: ProgressReporter, host: str, port: int) -> None:
    """Serves the reporter in a background thread for as long as the process lives.

    Raises:
        OSError: when the port cannot be bound.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(reporter.progress.model_dump_json(by_alias=True).encode(), "application/json")
            elif self.path == "/metrics":
                self._answer(generate_latest(reporter.registry), CONTENT_TYPE_LATEST)
            else:
                self.send_error(404)

        def _answer(self, body: bytes, content_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            # A line per scrape would bury the run's own log.
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # A caller that did not wait for the answer is no error of the run.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
