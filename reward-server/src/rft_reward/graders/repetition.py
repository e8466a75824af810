"""The builtin Repetition: the score is minus the share of the completion's n-grams that are repetitions.

Source: the repetition penalty of "Demystifying Long Chain-of-Thought Reasoning in LLMs" (Yeo et al. 2025), as Open-R1
computes it, with -1 as the largest penalty.
"""

from __future__ import annotations

from typing import Any

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.RepetitionReward`."""
    size, unit = options["size"], options["unit"]

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        text = completion_text(sample)
        share = repeated_share(text.lower().split() if unit == "Words" else list(text), size)
        return 0.0 - share, [("repetition", 0.0 - share, "Reward")]

    return grade


def repeated_share(items: list[str], size: int) -> float:
    """Return the share of the sequences of `size` items that occurred before; 0 if there is no such sequence."""
    total = len(items) - size + 1
    if total <= 0:
        return 0.0
    return 1 - len({tuple(items[start : start + size]) for start in range(total)}) / total
