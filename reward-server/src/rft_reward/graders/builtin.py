"""The builtin rewards as graders: one sample at a time, each bounded in time."""

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


def build(builtin: dict[str, Any]) -> Grade:
    """The grader of a manifest's `builtin`; imports only what that one needs."""
    match builtin["name"]:
        case "Math":
            from rft_reward.graders import math_answer

            return over_samples(math_answer.build(builtin.get("math") or {}))
        case "ExactMatch":
            from rft_reward.graders import exact_match

            return over_samples(exact_match.build(builtin.get("exactMatch") or {}))
        case "Json":
            from rft_reward.graders import json_fields

            return over_samples(json_fields.build(builtin.get("json") or {}))
        case "Format":
            from rft_reward.graders import text_format

            return over_samples(text_format.build(builtin["format"]))
        case "F1":
            from rft_reward.graders import f1

            return over_samples(f1.build(builtin.get("f1") or {}))
        case "Rouge" | "Bleu" | "ChrF" as name:
            from rft_reward.graders import text_overlap

            return over_samples(text_overlap.build(name, builtin.get(name[0].lower() + name[1:]) or {}))
        case "Code":
            from rft_reward.graders import code_answer

            return over_samples(code_answer.build(builtin.get("code") or {}))
        case name:
            raise Unscorable(f"there is no builtin {name}")


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
