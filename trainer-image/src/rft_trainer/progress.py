"""Where the run stands, served over HTTP: `/progress` as JSON and `/metrics` for Prometheus."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rft_api.exit_codes import ExitCode, RunError
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
from rft_api.progress import HackingVerdict, Progress, describe_progress, format_seconds

_LABELS = ("namespace", "job")
REPORTED_ROWS = 100
"""Rows of data after which the progress changes."""


class Pace:
    """How fast the units of a stage are done.

    Args:
        began: when the stage began, in seconds.
        done_before: units that were done by then.
    """

    def __init__(self, began: float, done_before: int = 0):
        self._began = began
        self._done_before = done_before

    def left(self, done: int, planned: int, now: float) -> float | None:
        """Return seconds until all are done; None while nothing is known, and when all are."""
        more = done - self._done_before
        if more <= 0 or done >= planned:
            return None
        return (planned - done) * (now - self._began) / more


class ProgressReporter:
    """Keeps the progress and the metrics of one run; rank 0 serves them.

    The names of the metrics are part of the project's contract: dashboards and alerts are built on them. What has not
    been measured is absent: a curve does not begin with a 0 that nobody saw.

    Args:
        namespace: namespace of the job.
        job: name of the job.
        clock: the time in seconds.
    """

    def __init__(self, namespace: str, job: str, clock: Callable[[], float] = time.monotonic):
        self.progress = Progress()
        self._clock = clock
        self._stage = Pace(clock())
        self._active_since = clock()
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
        """Change fields of the progress (snake_case names of `rft_api.progress.Progress`).

        The time left follows from how much is done since the stage began, unless it is given. Another phase or message
        ends what `detail` was about.
        """
        before, after = self.progress, self.progress.model_copy(update=fields)
        now = self._clock()
        if (after.phase, after.message) != (before.phase, before.message):
            self._active_since = now
            after = after.model_copy(update={"detail": fields.get("detail", "")})
        if (after.phase, after.planned) != (before.phase, before.planned):
            self._stage = Pace(now, after.done)
        if "done" in fields and "eta_seconds" not in fields:
            after = after.model_copy(update={"eta_seconds": self._stage.left(after.done, after.planned, now)})
        self.progress = after

    def part(self, planned: int, unit: str) -> Callable[[int], None]:
        """Begin a part of the stage, such as a validation in training; return what takes how much of it is done."""
        pace = Pace(self._clock())

        def report(done: int) -> None:
            left = pace.left(done, planned, self._clock())
            text = f"{done}/{planned} {unit}"
            self.update(detail=text if left is None else f"{text}, about {format_seconds(left)} left")

        report(0)
        return report

    def describe(self) -> str:
        """Return one line for the log."""
        return describe_progress(self.progress, self._clock() - self._active_since)

    def plan(self, total_steps: int, done: int = 0) -> None:
        """Announce how many steps the run will take, and how many an earlier attempt has done."""
        self.update(total_steps=total_steps)
        self._publish(PLANNED_STEPS, total_steps)
        self._publish(STEPS_DONE, done)
        self.record_checkpoint()

    def record_step(self, metrics: TrainMetrics, new_tokens: int) -> None:
        """Publish a training step; the tokens of a line are those of all attempts, the counter's are ours."""
        self._record(metrics.model_copy(update={"tokens": new_tokens}))
        if metrics.loss is None or metrics.gradient_norm is None:
            self._publish(NONFINITE_STEPS, 1)

    def record_checkpoint(self) -> None:
        """Publish that a checkpoint is complete."""
        self._publish(CHECKPOINT_TIME, time.time())

    def record_validation(self, metrics: ValidationMetrics) -> None:
        """Publish a validation."""
        self.update(validation_reward=metrics.reward)
        self._record(metrics)

    def record_hacking(self, verdict: HackingVerdict) -> None:
        """Publish what comparing the reward with its shadows says."""
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


class RowCounter:
    """Reports how many rows of data have been read.

    Args:
        reporter: the run's progress.
    """

    def __init__(self, reporter: ProgressReporter):
        self._reporter = reporter
        self.total = 0

    def count(self, messages: object) -> int:
        """Count a row; in the place of a function that counts a prompt's tokens, it finds none."""
        self.total += 1
        if self.total % REPORTED_ROWS == 0:
            self._reporter.update(detail=f"{self.total} rows")
        return 0


def serve_progress(reporter: ProgressReporter, port: int) -> Callable[[], None]:
    """Serve the reporter in a background thread for as long as the process lives, or until the result is called.

    In a pod everybody may ask, elsewhere only programs of this machine.

    Raises:
        RunError: UNEXPECTED when the port cannot be opened.
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

    try:
        server = Server(("0.0.0.0" if "KUBERNETES_SERVICE_HOST" in os.environ else "127.0.0.1", port), Handler)
    except OSError as error:
        raise RunError(
            ExitCode.UNEXPECTED, f"port {port} of /progress cannot be opened: {error.strerror}; choose another --port"
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), name="progress", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
