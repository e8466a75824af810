"""The table of the builtin rewards' graders; `rft_api.builtin_table` has their options.

Workers import it, and of the graders only those that they need.
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
    """How a builtin's grader is made."""

    module: str
    """Its module in this package."""
    function: str = "build"
    """The function there that makes the grader of a sample, `GradeSample`, from the options as JSON."""
    processes: int = 0
    """Processes of its own that a grader keeps in each worker."""

    def load(self) -> Callable[[dict[str, Any]], GradeSample]:
        """The function; imports what the grader needs."""
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
}
"""By the builtins' names."""


def build(name: str, options: dict[str, Any]) -> Grade:
    """The grader of a batch of samples."""
    return over_samples(BUILDERS[name].load()(options))
