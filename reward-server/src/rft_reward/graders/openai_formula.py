"""Evaluates the formulas of OpenAI's multi graders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rft_reward.graders.term import Unscorable

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "min": lambda *values: min(values),
    "max": lambda *values: max(values),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


def compute(formula: Any, scores: Mapping[str, float]) -> float:
    """Evaluate a formula that `rft_api.openai_formula.parse_formula` has parsed.

    Raises:
        Unscorable: the formula has no value, such as a division by zero.
    """
    try:
        value = _compute(formula, scores)
        finite = not isinstance(value, complex) and math.isfinite(value)
    except (ArithmeticError, ValueError) as error:
        raise Unscorable(f"calculate_output: {error}") from None
    if not finite:
        raise Unscorable("calculate_output: the result is not a finite number")
    return float(value)


def _compute(formula: Any, scores: Mapping[str, float]) -> Any:
    if isinstance(formula, str):
        return scores[formula]
    if not isinstance(formula, list):
        return formula
    operation, *operands = formula
    return _OPERATIONS[operation](*(_compute(operand, scores) for operand in operands))
