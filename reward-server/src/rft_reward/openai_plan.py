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


def worker_plan(grader: AnyGrader) -> dict[str, Any]:
    """What the workers compute, as JSON. It has no formula if the formula also needs scores of a model."""
    parts = [(key, part) for key, part in single_graders(grader) if not part.asks_model]
    plans = [(key, _worker_part(part)) for key, part in parts]
    return {"graders": plans, "formula": None if asks_model(grader) else formula(grader)}


def model_graders(grader: AnyGrader) -> list[tuple[str, ScoreModel | LabelModel]]:
    """The graders that ask a model, with their keys."""
    return [(key, part) for key, part in single_graders(grader) if isinstance(part, (ScoreModel, LabelModel))]


def formula(grader: AnyGrader) -> Formula:
    """The formula that computes the score from the scores of the parts. That of a single grader is its own score."""
    if isinstance(grader, Multi):
        return parse_formula(grader.calculate_output, grader.graders)
    return next(key for key, _ in single_graders(grader))


def _worker_part(grader: AnyGrader) -> dict[str, Any]:
    match grader:
        case StringCheck():
            own: dict[str, Any] = {"operation": grader.operation}
        case TextSimilarity():
            own = {"metric": grader.evaluation_metric, "threshold": grader.pass_threshold}
        case PythonScript():
            return {"type": grader.type, "source": grader.source}
        case _:
            raise ValueError(f"workers do not compute {grader.type}")
    texts = {"input": parse_template(grader.input), "reference": parse_template(grader.reference)}
    return {"type": grader.type, **own, **texts}
