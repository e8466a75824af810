"""Graders of builtin rewards, made of a manifest's options as the reward server makes them."""

from __future__ import annotations

from typing import Any

from rft_api.builtin_table import BUILTINS
from rft_reward.graders.builtin import BUILDERS
from rft_reward.graders.per_sample import GradeSample


def grader_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as the grader takes them, with every default."""
    return BUILTINS[name].model_validate(options).for_grader()


def grader(name: str, **options: Any) -> GradeSample:
    """The grader of a sample."""
    return BUILDERS[name].load()(grader_options(name, options))
