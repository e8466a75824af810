"""The reward protocol: what `POST /v1/score` takes and gives, the contract of Amazon Bedrock's reward Lambdas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCORE_PATH = "/v1/score"


class _Message(BaseModel):
    """Base of the protocol's objects: the field names are Bedrock's, further fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Sample(_Message):
    """A conversation that ends with the answer to score."""

    id: str
    """Names the sample in the answer."""
    messages: list[dict[str, Any]]
    """The conversation in OpenAI chat format; the last message is the assistant's."""
    reference_answer: Any = None
    """A string, an object, or nothing."""
    metadata: dict[str, Any] = {}
    """Holds reference_answer again, and the data row's further fields: handlers in circulation read either place."""


class Metric(_Message):
    """A named part of a reward."""

    name: str
    """Name of the component."""
    value: Annotated[float, Field(allow_inf_nan=False)]
    """Its value."""
    type: Literal["Reward", "Metric"] = "Reward"
    """Whether it enters the reward or is only recorded."""


class Score(_Message):
    """A sample's reward, or why there is none."""

    id: str
    """The sample's id."""
    aggregate_reward_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The reward; absent exactly when there is an error."""
    metrics_list: list[Metric] = []
    """The reward's components."""
    error: str | None = None
    """Why the sample could not be scored."""


def build_sample(
    sample_id: str,
    messages: Sequence[Mapping[str, Any]],
    completion: str,
    reference_answer: Any,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """A sample as JSON, with the reference answer in both places where handlers look for it."""
    return {
        "id": sample_id,
        "messages": [*messages, {"role": "assistant", "content": completion}],
        "reference_answer": reference_answer,
        "metadata": {**metadata, "reference_answer": reference_answer},
    }


def match_scores(ids: Sequence[str], answer: Any) -> list[Score]:
    """Scores in the order of `ids` from a handler's answer, whatever its order and however wrong it is.

    Never raises on a wrong answer: every id that has no usable score gets a `Score` whose error says why.
    """
    if isinstance(answer, Mapping) and isinstance(answer.get("body"), (list, str)):
        answer = answer["body"]  # API-Gateway style Lambdas wrap their answer
    if not isinstance(answer, Sequence) or isinstance(answer, (str, bytes)):
        reason = f"the handler returned {_kind(answer)}; it must return a list of objects, one per sample"
        return [Score(id=sample_id, error=reason) for sample_id in ids]
    rows: dict[str, Any] = {}
    duplicates: set[str] = set()
    for row in answer:
        row_id = str(row["id"]) if isinstance(row, Mapping) and "id" in row else None
        if row_id is None:
            continue
        if row_id in rows:
            duplicates.add(row_id)
        rows[row_id] = row
    scores = []
    for sample_id in ids:
        if sample_id in duplicates:
            scores.append(Score(id=sample_id, error="the handler returned this id more than once"))
        elif sample_id not in rows:
            scores.append(Score(id=sample_id, error="the handler returned no row with this id"))
        else:
            scores.append(_score(sample_id, rows[sample_id]))
    return scores


def _score(sample_id: str, row: Mapping[str, Any]) -> Score:
    error = row.get("error")
    if error is not None:
        return Score(id=sample_id, error=str(error))
    value = row.get("aggregate_reward_score")
    problem = _number_problem("aggregate_reward_score", value)
    if problem:
        return Score(id=sample_id, error=problem)
    metrics = row.get("metrics_list") or []
    if not isinstance(metrics, Sequence) or isinstance(metrics, (str, bytes)):
        return Score(id=sample_id, error=f"metrics_list is {_kind(metrics)}, not a list")
    components = []
    for metric in metrics:
        if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
            return Score(id=sample_id, error="metrics_list holds something that is not an object with a name")
        problem = _number_problem(f"metric {metric['name']!r}", metric.get("value"))
        if problem:
            return Score(id=sample_id, error=problem)
        kind: Literal["Reward", "Metric"] = "Metric" if metric.get("type") == "Metric" else "Reward"
        components.append(Metric(name=metric["name"], value=float(metric["value"]), type=kind))
    return Score(id=sample_id, aggregate_reward_score=float(value), metrics_list=components)  # type: ignore[arg-type]


def _number_problem(name: str, value: Any) -> str | None:
    if value is None:
        return f"{name} is missing"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{name} is {_kind(value)}, not a number"
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    return None if finite else f"{name} is not a finite number"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
