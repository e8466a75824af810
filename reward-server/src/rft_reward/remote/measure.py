"""Counts the requests to models by their outcome, and measures how long they take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rft_reward.metrics import Metrics
from rft_reward.remote.errors import OutOfTimeError, RemoteError, TransientError


@contextlib.contextmanager
def measured_request(metrics: Metrics) -> Iterator[None]:
    """Count the request that is made in the block, and its seconds; its errors are passed on."""
    started, outcome = time.perf_counter(), "timeout"  # the outcome if the request is cancelled
    try:
        yield
        outcome = "answered"
    except TransientError:
        outcome = "retried"
        raise
    except RemoteError as error:
        outcome = "timeout" if isinstance(error, OutOfTimeError) else "refused"
        raise
    finally:
        metrics.judge_requests.labels(outcome).inc()
        metrics.judge_seconds.observe(time.perf_counter() - started)
