"""Serves the progress of a run over HTTP: `/progress` as JSON, and `/metrics` for Prometheus."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.small_server import Page, SmallServer
from rft_api.metrics import (
    CHECKPOINT_TIME,
    HACKING_SUSPECTED,
    NONFINITE_STEPS,
    PLANNED_STEPS,
    STEPS_DONE,
    Metrics,
    Served,
    TrainMetrics,
    ValidationMetrics,
    WarmupMetrics,
    all_series,
    samples,
)
from rft_api.progress import HackingVerdict, Pace, Progress, Report, describe_progress, format_seconds

_WATCH_SECONDS = 1.0
_LABELS = ("namespace", "job")
REPORTED_ROWS = 100
"""Number of rows of data after which the progress is updated."""


class ProgressReporter:
    """Keeps the progress and the metrics of one run; rank 0 serves them.

    The names of the metrics are a stable interface: dashboards and alerts use them. A gauge that has not been measured
    yet is absent, so that its curve does not begin with a wrong 0.

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
                self._series[name].labels(**self._labels)  # a counter starts at 0

    def update(self, **fields: Any) -> None:
        """Change fields of the progress (snake_case names of `rft_api.progress.Progress`).

        The time left is computed from the speed of the stage so far, unless `eta_seconds` is among the fields. A new
        phase or message clears `detail`.
        """
        previous, progress = self.progress, self.progress.model_copy(update=fields)
        now = self._clock()
        if (progress.phase, progress.message) != (previous.phase, previous.message):
            self._active_since = now
            progress = progress.model_copy(update={"detail": fields.get("detail", "")})
        if (progress.phase, progress.planned) != (previous.phase, previous.planned):
            self._stage = Pace(now, progress.done)
        if "done" in fields and "eta_seconds" not in fields:
            seconds_left = self._stage.seconds_left(progress.done, progress.planned, now)
            progress = progress.model_copy(update={"eta_seconds": seconds_left})
        self.progress = progress

    def part(self, planned: int, unit: str) -> Callable[[int], None]:
        """Begin a part of the stage, such as a validation in training; return a function that reports its progress."""
        pace = Pace(self._clock())

        def report(completed: int) -> None:
            seconds_left = pace.seconds_left(completed, planned, self._clock())
            text = f"{completed}/{planned} {unit}"
            self.update(detail=text if seconds_left is None else f"{text}, about {format_seconds(seconds_left)} left")

        report(0)
        return report

    def report_bytes(self, message: str | None = None) -> Report:
        """Return a function that takes the bytes that a part of the stage has read or copied, and the number of all.

        The part begins with the first report, which says how many bytes there are. Less than a MB is not reported.

        Args:
            message: what the part does; None when the progress says it already.
        """
        report: Callable[[int], None] | None = None

        def take(completed: int, total: int) -> None:
            nonlocal report
            if total < 10**6:
                return
            if report is None:
                if message is not None:
                    self.update(message=message)
                report = self.part(total // 10**6, "MB")
            report(completed // 10**6)

        return take

    @contextmanager
    def writing(self, folder: Path, total: int | None) -> Iterator[None]:
        """Report from a background thread how much has been written to a folder, inside the context.

        Args:
            folder: the folder; it need not exist yet.
            total: the bytes that it will have; None when nobody knows, so that no time left is reported.
        """
        ended = threading.Event()
        report = self.report_bytes()

        def watch() -> None:
            while not ended.wait(_WATCH_SECONDS):
                size = folder_bytes(folder)
                if total is not None:
                    report(min(size, total), total)
                elif size >= 10**6:
                    self.update(detail=f"{size // 10**6:,} MB written")

        thread = threading.Thread(target=watch, name="written-bytes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def describe(self) -> str:
        """Return the progress as one line for the log."""
        return describe_progress(self.progress, self._clock() - self._active_since)

    def plan(self, total_steps: int, completed: int = 0) -> None:
        """Publish how many steps the run will make, and how many of them an earlier start has made."""
        self.update(total_steps=total_steps)
        self._publish(PLANNED_STEPS, total_steps)
        self._publish(STEPS_DONE, completed)
        self.record_checkpoint()

    def record_step(self, metrics: TrainMetrics, new_tokens: int) -> None:
        """Publish a training step.

        `metrics.tokens` counts the tokens of all starts of the run. `new_tokens` are those of this step, by which the
        counter grows.
        """
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

    def record_warmup(self, metrics: WarmupMetrics, new_tokens: int) -> None:
        """Publish a step of a warm-up alone; `new_tokens` are those of this step, as in `record_step`."""
        self._record(metrics.model_copy(update={"tokens": new_tokens}))
        if metrics.loss is None or metrics.gradient_norm is None:
            self._publish(NONFINITE_STEPS, 1)

    def record_hacking(self, verdict: HackingVerdict) -> None:
        """Publish the verdict of the comparison of the reward with its shadows."""
        self.update(reward_hacking=verdict)
        if verdict.suspected is not None:
            self._publish(HACKING_SUSPECTED, verdict.suspected)

    def _record(self, metrics: Metrics) -> None:
        for sample in samples(metrics):
            self._publish(sample.served, sample.value, **sample.labels)

    def _publish(self, served: Served, value: float, **labels: str) -> None:
        series = self._series[served.name].labels(**self._labels, **labels)
        if isinstance(series, Counter):
            series.inc(value)
        else:
            series.set(value)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files of a folder, to which others may be writing; 0 when there is no such folder."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a file may have got its final name meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


class RowCounter:
    """Reports how many rows of data have been read.

    Args:
        reporter: the run's progress.
    """

    def __init__(self, reporter: ProgressReporter):
        self._reporter = reporter
        self.total = 0

    def count(self, messages: object) -> int:
        """Count a row and return 0; used in place of a function that counts the tokens of a prompt."""
        self.total += 1
        if self.total % REPORTED_ROWS == 0:
            self._reporter.update(detail=f"{self.total} rows")
        return 0


def serve_progress(reporter: ProgressReporter, port: int) -> Callable[[], None]:
    """Serve the reporter in a background thread; return a function that stops it.

    In a pod every host may connect, elsewhere only programs of this machine.

    Raises:
        RunError: UNEXPECTED when the port cannot be opened.
    """

    pages = {
        "/progress": Page("application/json", lambda: reporter.progress.model_dump_json(by_alias=True).encode()),
        "/metrics": Page(CONTENT_TYPE_LATEST, lambda: generate_latest(reporter.registry)),
    }
    try:
        return SmallServer("0.0.0.0" if "KUBERNETES_SERVICE_HOST" in os.environ else "127.0.0.1", port, pages).stop
    except OSError as error:
        raise RunError(
            ExitCode.UNEXPECTED, f"port {port} of /progress cannot be opened: {error.strerror}; choose another --port"
        ) from error
