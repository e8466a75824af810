"""Turns the grader of one sample into the grader of a batch. Each sample has a time limit, and fails on its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import orjson

from rft_reward.graders.term import Call, Grade, TimeLimit, Unscorable
from rft_reward.text import writable

Component = tuple[str, float, str]
"""A component: its name, its value, and its type (Reward or Metric)."""

GradeSample = Callable[[dict[str, Any]], tuple[float, list[Component], *tuple[str, ...]]]
"""A function that returns the score and the components of a sample, and then the errors that scored 0 by `onError`. It
raises `Unscorable` if there is no score."""


def sample_share(seconds: float, samples: int) -> float:
    """Return the time limit of one sample of a batch, in seconds, when the samples are scored one by one."""
    return max(seconds / 8, seconds / samples)


def over_samples(grade_sample: GradeSample) -> Grade:
    """Turn the grader of a sample into the grader of a batch."""
    clock = _SampleClock()
    signal.signal(signal.SIGALRM, clock.ring)

    def grade(payload: bytes, call: Call) -> bytes:
        samples = orjson.loads(payload)
        # A completion for which the algebra or a regular expression hangs must not fail the other samples.
        share = sample_share(call.seconds, len(samples)) if len(samples) > 1 else 0.0
        return orjson.dumps([_row(sample, grade_sample, clock, share) for sample in samples])

    return grade


class _SampleClock:
    """Interrupts a sample that exceeds its time limit."""

    def __init__(self) -> None:
        self.rang = False

    def start(self, seconds: float) -> None:
        """Interrupt the sample in `seconds`; never if that is 0."""
        self.rang = False
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def stop(self) -> None:
        """Cancel the interruption."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, signal_number: int, frame: object) -> None:
        """Handle the signal."""
        self.rang = True
        raise TimeLimit


def _row(sample: dict[str, Any], grade_sample: GradeSample, clock: _SampleClock, share: float) -> dict[str, Any]:
    try:
        clock.start(share)
        try:
            score, components, *errors = grade_sample(sample)
        finally:
            clock.stop()
    except Unscorable as error:
        return {"id": sample["id"], "error": writable(str(error))}
    except TimeLimit:
        if not clock.rang:
            raise  # the time of the whole batch is up
    except MemoryError:
        raise
    except Exception as error:
        text = writable(f"scoring this completion ended in {type(error).__name__}: {error}")
        return {"id": sample["id"], "error": text}
    if clock.rang:  # also if a library has caught the interruption
        return {"id": sample["id"], "error": f"took more than {share:g} s, this sample's share of spec.timeout"}
    metrics = [{"name": name, "value": value, "type": kind} for name, value, kind in components]
    row = {"id": sample["id"], "aggregate_reward_score": score, "metrics_list": metrics}
    if errors:
        row["warnings"] = [{"reason": "ErrorScoredZero", "message": writable(error)} for error in errors]
    return row
