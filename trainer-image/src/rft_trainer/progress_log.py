"""Writes the progress of a run to the log at intervals, so that `kubectl logs` shows it in every stage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rft_trainer.progress import ProgressReporter

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
"""Seconds between two lines."""


class ProgressLog:
    """Writes one line every `INTERVAL_SECONDS` while the run goes on.

    Args:
        reporter: the run's progress.
        clock: the time in seconds.
    """

    def __init__(self, reporter: ProgressReporter, clock: Callable[[], float] = time.monotonic):
        self._reporter = reporter
        self._clock = clock
        self._last = clock()

    def write_if_due(self) -> float:
        """Write a line when the last one is old enough; return the seconds until the next one is due."""
        now = self._clock()
        if now - self._last >= INTERVAL_SECONDS and self._reporter.progress.phase != "Done":
            self._last = now
            log.info("%s", self._reporter.describe())
        return max(0.0, self._last + INTERVAL_SECONDS - now)


@contextmanager
def logged_progress(reporter: ProgressReporter) -> Iterator[None]:
    """Write the progress to the log from a background thread, inside the context."""
    ended = threading.Event()
    progress_log = ProgressLog(reporter)

    def write() -> None:
        while not ended.wait(max(0.1, progress_log.write_if_due())):
            pass

    thread = threading.Thread(target=write, name="progress-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # no line comes after what the program prints next
