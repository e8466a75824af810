"""Splits a grader in OpenAI's JSON format into what workers compute and what a model is asked, and parses it once."""

from __future__ import annotations

from typing import Any

from rft_api.openai_formula import Formula, parse_formula
from rft_api.openai_grader import (
    AnyGrader,
    LabelModel,
    Multi,
    PythonScript,
    ScoreModel,
    StringCheck,
    TextSimilarity,
    asks_model,
    single_graders,
)
from rft_api.openai_template import parse_template


def worker_plan(grader: AnyGrader, zero_on_error: bool) -> dict[str, Any]:
    """Return what the workers compute, as JSON. It has no formula if the formula also needs scores of a model.

    Args:
        grader: the grader.
        zero_on_error: whether code that raises an exception scores 0. The sample has no score otherwise.
    """
    parts = [(key, part) for key, part in single_graders(grader) if not part.asks_model]
    return {
        "graders": [(key, _worker_part(part)) for key, part in parts],
        "formula": None if asks_model(grader) else formula(grader),
        "passed": passed(grader),
        "zeroOnError": zero_on_error,
    }


def model_graders(grader: AnyGrader) -> list[tuple[str, ScoreModel | LabelModel | TextSimilarity]]:
    """Return the graders that ask a model, with their keys."""
    return [
        (key, part)
        for key, part in single_graders(grader)
        if part.asks_model and isinstance(part, (ScoreModel, LabelModel, TextSimilarity))
    ]


def formula(grader: AnyGrader) -> Formula:
    """Return the formula that computes the score from the scores of the parts. That of a single grader is its own
    score."""
    if isinstance(grader, Multi):
        return parse_formula(grader.calculate_output, grader.graders)
    return next(key for key, _ in single_graders(grader))


def passed(grader: AnyGrader) -> tuple[str, float] | None:
    """Return the metric that says whether a multi grader passes: its name, and the smallest score that passes."""
    if isinstance(grader, Multi) and grader.pass_threshold is not None:
        return f"{grader.name or grader.type}/passed", grader.pass_threshold
    return None


def _worker_part(grader: AnyGrader) -> dict[str, Any]:
    match grader:
        case StringCheck():
            own: dict[str, Any] = {"operation": grader.operation}
        case TextSimilarity():
            own = {"metric": grader.evaluation_metric, "threshold": grader.pass_threshold}
        case PythonScript():
            return {"type": grader.type, "source": grader.source, "threshold": grader.pass_threshold}
        case _:
            raise ValueError(f"workers do not compute {grader.type}")
    texts = {"input": parse_template(grader.input), "reference": parse_template(grader.reference)}
    return {"type": grader.type, **own, **texts}
