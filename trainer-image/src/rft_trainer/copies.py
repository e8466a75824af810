"""Reports how far the launcher is with files that it copies or compares, while no stage runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rft_api.progress import Phase
from rft_api.trainer_config import TrainerConfig
from rft_trainer.progress import ProgressReporter, serve_progress
from rft_trainer.progress_log import logged_progress


@contextmanager
def copying(config: TrainerConfig, phase: Phase, port: int | None) -> Iterator[Callable[[str, int, int], None]]:
    """Serve and log the progress inside the context.

    Yield a function that takes an address or what is being done, the number of bytes so far, and that of all bytes.

    Args:
        config: the run's configuration.
        phase: the phase of the run that this belongs to.
        port: the port of /progress; None serves nothing.
    """
    reporter = ProgressReporter(config.namespace, config.name)
    reporter.update(phase=phase, unit="MB")

    def report(text: str, completed: int, total: int) -> None:
        if reporter.progress.message != text:
            reporter.update(message=text, done=0, planned=total // 10**6, eta_seconds=None)
        reporter.update(done=completed // 10**6, planned=total // 10**6)

    stop = serve_progress(reporter, port) if port is not None else lambda: None
    try:
        with logged_progress(reporter):
            yield report
    finally:
        stop()
