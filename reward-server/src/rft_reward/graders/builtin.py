"""The table of the builtin rewards' graders. Their options are in the table `rft_api.builtin_table`.

Workers import this module, but only those graders that they need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rft_reward.graders.per_sample import GradeSample, over_samples
from rft_reward.graders.term import Grade


@dataclass(frozen=True)
class Builder:
    """Where the function is that builds a builtin's grader."""

    module: str
    """Name of the module in this package."""
    function: str = "build"
    """Name of the function in the module. It builds the grader of a sample, `GradeSample`, from the options as JSON."""
    processes: int = 0
    """Number of companions, which are processes that the grader keeps running in each worker."""

    def load(self) -> Callable[[dict[str, Any]], GradeSample]:
        """Import the module, and everything that the grader needs, and return the function."""
        build_grader: Callable[[dict[str, Any]], GradeSample]
        build_grader = getattr(import_module(f"rft_reward.graders.{self.module}"), self.function)
        return build_grader


BUILDERS: Mapping[str, Builder] = {
    "Math": Builder("math_answer"),
    "ExactMatch": Builder("exact_match"),
    "F1": Builder("f1"),
    "Json": Builder("json_fields"),
    "Format": Builder("text_format"),
    "Code": Builder("code_answer", processes=1),
    "Rouge": Builder("text_overlap", "build_rouge"),
    "Bleu": Builder("text_overlap", "build_bleu"),
    "ChrF": Builder("text_overlap", "build_chrf"),
    "LengthPenalty": Builder("length_penalty"),
    "Repetition": Builder("repetition"),
}
"""The builders, by the names of the builtins."""


def build(name: str, options: dict[str, Any]) -> Grade:
    """Build the grader of a batch of samples."""
    return over_samples(BUILDERS[name].load()(options))
