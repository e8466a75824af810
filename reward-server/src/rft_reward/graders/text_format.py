"""The builtin Format: the share of the stated constraints that the completion keeps."""

from __future__ import annotations

import re
from typing import Any

from rft_reward.graders.builtin import Component, GradeSample
from rft_reward.graders.sample import completion_text


def build(options: dict[str, Any]) -> GradeSample:
    """The grader for the options of `rft_api.reward_function.FormatReward`."""
    pattern = re.compile(options["pattern"], re.DOTALL) if options.get("pattern") else None
    minimum, maximum = options.get("minimumCharacters"), options.get("maximumCharacters")

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        text = completion_text(sample)
        kept: dict[str, bool] = {}
        if pattern is not None:
            kept["pattern"] = pattern.fullmatch(text) is not None
        if minimum is not None:
            kept["minimum_characters"] = len(text) >= minimum
        if maximum is not None:
            kept["maximum_characters"] = len(text) <= maximum
        for number, wanted in enumerate(options.get("contains") or [], 1):
            kept[f"contains/{number}"] = wanted in text
        for number, unwanted in enumerate(options.get("excludes") or [], 1):
            kept[f"excludes/{number}"] = unwanted not in text
        return sum(kept.values()) / len(kept), [(name, float(value), "Reward") for name, value in kept.items()]

    return grade
