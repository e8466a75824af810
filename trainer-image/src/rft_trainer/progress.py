"""Where the run stands, served over HTTP: `/progress` as JSON and `/metrics` for Prometheus."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rft_api.metrics import (
    CHECKPOINT_TIME,
    HACKING_SUSPECTED,
    NONFINITE_STEPS,
    PLANNED_STEPS,
    STEPS_DONE,
    Served,
    TrainMetrics,
    ValidationMetrics,
    all_series,
    samples,
)
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
        self._series = {
            name: (Counter if served.counter else Gauge)(
                name, served.help, [*_LABELS, *served.label_names], registry=self.registry
            )
            for name, served in all_series().items()
        }
        for name, served in all_series().items():
            if served.counter and not served.label_names:
                self._series[name].labels(**self._labels)  # a counter begins with 0

    def update(self, **fields: Any) -> None:
        """Changes fields of the progress (snake_case names of `rft_api.progress.Progress`)."""
        self.progress = self.progress.model_copy(update=fields)

    def plan(self, total_steps: int, done: int = 0) -> None:
        """Announces how many steps the run will take, and how many an earlier attempt has done."""
        self.update(total_steps=total_steps)
        self._publish(PLANNED_STEPS, total_steps)
        self._publish(STEPS_DONE, done)
        self.record_checkpoint()

    def record_step(self, metrics: TrainMetrics, new_tokens: int) -> None:
        """Publishes a training step; the tokens of a line are those of all attempts, the counter's are ours."""
        self._record(metrics.model_copy(update={"tokens": new_tokens}))
        if metrics.loss is None or metrics.gradient_norm is None:
            self._publish(NONFINITE_STEPS, 1)

    def record_checkpoint(self) -> None:
        """Publishes that a checkpoint is complete."""
        self._publish(CHECKPOINT_TIME, time.time())

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Publishes a validation."""
        self.update(validation_reward=metrics.reward)
        self._record(metrics)

    def record_hacking(self, verdict: HackingVerdict) -> None:
        """Publishes what comparing the reward with its shadows says."""
        self.update(reward_hacking=verdict)
        if verdict.suspected is not None:
            self._publish(HACKING_SUSPECTED, verdict.suspected)

    def _record(self, metrics: TrainMetrics | ValidationMetrics) -> None:
        for sample in samples(metrics):
            self._publish(sample.served, sample.value, **sample.labels)

    def _publish(self, served: Served, value: float, **labels: str) -> None:
        series = self._series[served.name].labels(**self._labels, **labels)
        if isinstance(series, Counter):
            series.inc(value)
        else:
            series.set(value)


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
