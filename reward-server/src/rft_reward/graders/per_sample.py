"""From a grader of one sample to that of a batch: each sample is bounded in time, and fails alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import orjson

from rft_reward.graders.term import Call, Grade, TimeLimit, Unscorable
from rft_reward.text import writable

Component = tuple[str, float, str]
"""Name, value and type (Reward or Metric)."""

GradeSample = Callable[[dict[str, Any]], tuple[float, list[Component]]]
"""From a sample to its score and components; raises `Unscorable`."""


def sample_share(seconds: float, samples: int) -> float:
    """Seconds that one of a batch's samples may take when it is told apart from the others."""
    return max(seconds / 8, seconds / samples)


def over_samples(grade_sample: GradeSample) -> Grade:
    """The grader of a batch, from that of a sample: each sample is bounded in time and fails alone."""
    clock = _SampleClock()
    signal.signal(signal.SIGALRM, clock.ring)

    def grade(payload: bytes, call: Call) -> bytes:
        samples = orjson.loads(payload)
        # A completion can hang the algebra or a regular expression: it costs its own sample only.
        share = sample_share(call.seconds, len(samples)) if len(samples) > 1 else 0.0
        return orjson.dumps([_row(sample, grade_sample, clock, share) for sample in samples])

    return grade


class _SampleClock:
    """Interrupts a sample that takes too long."""

    def __init__(self) -> None:
        self.rang = False

    def start(self, seconds: float) -> None:
        """Interrupts in `seconds`; never if that is 0."""
        self.rang = False
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def stop(self) -> None:
        """Calls the interruption off."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, signal_number: int, frame: object) -> None:
        """The signal's handler."""
        self.rang = True
        raise TimeLimit


def _row(sample: dict[str, Any], grade_sample: GradeSample, clock: _SampleClock, share: float) -> dict[str, Any]:
    try:
        clock.start(share)
        try:
            score, components = grade_sample(sample)
        finally:
            clock.stop()
    except Unscorable as error:
        return {"id": sample["id"], "error": writable(str(error))}
    except TimeLimit:
        if not clock.rang:
            raise  # the whole batch's time is up
    except MemoryError:
        raise
    except Exception as error:
        text = writable(f"scoring this completion ended in {type(error).__name__}: {error}")
        return {"id": sample["id"], "error": text}
    if clock.rang:  # whether or not a library swallowed the interruption
        return {"id": sample["id"], "error": f"took more than {share:g} s, this sample's share of spec.timeout"}
    metrics = [{"name": name, "value": value, "type": kind} for name, value, kind in components]
    return {"id": sample["id"], "aggregate_reward_score": score, "metrics_list": metrics}
