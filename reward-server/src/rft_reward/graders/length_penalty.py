"""The builtin LengthPenalty: the score depends on the length of the completion, and on whether its answer is right.

Sources: SoftLimit is the soft overlong punishment of DAPO (Yu et al. 2025, equation 13). Cosine is the cosine reward of
"Demystifying Long Chain-of-Thought Reasoning in LLMs" (Yeo et al. 2025), with the defaults of Open-R1. Beyond `maximum`
the score stays as it is; Open-R1 lets it rise again, which would reward endless completions.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text
from rft_reward.graders.term import Unscorable


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.LengthPenaltyReward`."""
    return _build_cosine(options) if options["shape"] == "Cosine" else _build_soft_limit(options)


def _build_soft_limit(options: dict[str, Any]) -> GradeSample:
    maximum, buffer = options["maximum"], options["buffer"]

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        size = length(sample, options["unit"])
        score = soft_limit(size, maximum, buffer)
        return score, [("length_penalty", score, "Reward"), ("length", float(size), "Metric")]

    return grade


def _build_cosine(options: dict[str, Any]) -> GradeSample:
    from rft_reward.graders import math_answer  # its libraries are large

    ends = {
        True: (float(options["rightShort"]), float(options["rightLong"])),
        False: (float(options["wrongShort"]), float(options["wrongLong"])),
    }

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        size = length(sample, options["unit"])
        right = math_answer.is_right(sample, options.get("answerKey"), Fraction(0))
        score = cosine(size, options["maximum"], *ends[right])
        return score, [
            ("length_penalty", score, "Reward"),
            ("length", float(size), "Metric"),
            ("correct", float(right), "Metric"),
        ]

    return grade


def soft_limit(size: int, maximum: int, buffer: int) -> float:
    """Return 0 up to `maximum - buffer`, then linearly down to -1 at `maximum`, and -1 beyond."""
    return 0.0 - min(1.0, max(0.0, (size - (maximum - buffer)) / buffer))


def cosine(size: int, maximum: int, short: float, long: float) -> float:
    """Return half a cosine from `short` at length 0 to `long` at length `maximum`, and `long` beyond."""
    progress = min(1.0, size / maximum)
    return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2


def length(sample: dict[str, Any], unit: str) -> int:
    """Return the length of a completion.

    Raises:
        Unscorable: its tokens are to be counted, but the sample does not say how many it has.
    """
    if unit == "Tokens":
        facts = (sample.get("metadata") or {}).get("rft")
        tokens = facts.get("tokens") if isinstance(facts, dict) else None
        if type(tokens) is not int or tokens < 0:
            raise Unscorable(
                "the sample has no metadata.rft.tokens, which the trainer sends: add the number of tokens to the "
                "file, or set unit: Characters or Words"
            )
        return tokens
    text = completion_text(sample)
    return len(text.split()) if unit == "Words" else len(text)
