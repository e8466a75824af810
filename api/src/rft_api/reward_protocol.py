"""The reward protocol: requests and responses of `POST /v1/score`, as Amazon Bedrock's reward Lambdas have them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rft_api.model import Json

SCORE_PATH = "/v1/score"
FinishReason = Literal["stop", "length"]
"""Whether a completion ended by itself, or at the token limit."""
DUPLICATE_ROWS = "the handler returned this id more than once"
"""The error of a sample for which a handler returned several rows."""
_WARNING_REASONS = ("ErrorScoredZero", "MetricConverted", "MetricDropped", "RatedAlone")
_MOST_WARNINGS = 16
"""Maximum number of warnings of one sample, because code of users decides how many there are."""


class _Message(BaseModel):
    """Base class of the objects of the protocol. The field names are Bedrock's, and further fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Sample(_Message):
    """A conversation that ends with the completion to score."""

    id: str
    """Id of the sample, by which its score is found in the response."""
    messages: list[Json]
    """The conversation in OpenAI chat format. Its last message is the completion, from the assistant."""
    reference_answer: Any = None
    """The reference answer: a string, an object, or nothing."""
    metadata: Json = {}
    """The further fields of the data row, and reference_answer once more, because some handlers read it here. In
    training, the field `rft` has what the trainer knows about the completion: `tokens`, and `finish_reason`, which is
    `stop` or `length`."""
    group: str | None = None
    """Id that all completions of a prompt share; absent unless the reward has the scope Group."""


class Metric(_Message):
    """A named component of a reward."""

    name: str
    """Name of the component."""
    value: Annotated[float, Field(allow_inf_nan=False)]
    """Value of the component."""
    type: Literal["Reward", "Metric"] = "Reward"
    """Whether the component is part of the reward, or only recorded."""


class ScoreWarning(_Message):
    """A problem of a sample that has a reward all the same."""

    reason: Literal["ErrorScoredZero", "MetricConverted", "MetricDropped", "RatedAlone"]
    """ErrorScoredZero: the code raised an exception, and onError says that this scores 0. MetricConverted: the value of
    a component is a boolean, which counts as 1 or 0. MetricDropped: a component without a name or a number is left
    out. RatedAlone: a judge that compares completions was given only one, and rated it by itself."""
    message: str
    """The problem in words."""


class Score(_Message):
    """The reward of a sample, or the reason why there is none."""

    id: str
    """Id of the sample."""
    aggregate_reward_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The reward. It is absent exactly when there is an error."""
    metrics_list: list[Metric] = []
    """Components of the reward."""
    error: str | None = None
    """Reason why the sample could not be scored."""
    explanation: str | None = None
    """Explanation of the reward in words, such as a judge's reason."""
    warnings: list[ScoreWarning] | None = None
    """Problems of the sample that did not keep it from being scored. It is absent if there are none."""


def build_sample(
    sample_id: str,
    messages: Sequence[Mapping[str, Any]],
    completion: str,
    reference_answer: Any,
    metadata: Mapping[str, Any],
    group: str | None = None,
) -> Json:
    """Build a sample as JSON, with the reference answer in both places in which handlers look for it.

    `group` is the id that all completions of a prompt share, for rewards that see them together.
    """
    sample = {
        "id": sample_id,
        "messages": [*messages, {"role": "assistant", "content": completion}],
        "reference_answer": reference_answer,
        "metadata": {**metadata, "reference_answer": reference_answer},
    }
    return sample if group is None else {**sample, "group": group}


def with_facts(metadata: Mapping[str, Any], tokens: int, finish_reason: FinishReason | None) -> Json:
    """The metadata of a sample, with what the trainer knows about the completion in its field `rft`.

    Args:
        metadata: the further fields of the data row.
        tokens: number of tokens of the completion, the EOS token included.
        finish_reason: whether it ended by itself, or at the token limit; None if nobody knows.
    """
    own = metadata.get("rft")
    facts = {"tokens": tokens} if finish_reason is None else {"tokens": tokens, "finish_reason": finish_reason}
    return {**metadata, "rft": {**own, **facts} if isinstance(own, dict) else facts}


def match_scores(ids: Sequence[str], answer: Any) -> list[Score]:
    """Match the scores of a handler's response to the samples, and return them in the order of `ids`.

    An invalid response raises no exception. Every id without a valid score gets a `Score` with an error.
    """
    return [Score.model_validate(row) for row in match_rows(ids, answer)]


def match_rows(ids: Sequence[str], answer: Any) -> list[Json]:
    """Do the same as `match_scores`, for JSON objects; the reward server calls it for every sample.

    The response comes from a JSON parser, so it consists of dict and list, whose checks are much faster than those of
    Mapping and Sequence.
    """
    if isinstance(answer, dict) and isinstance(answer.get("body"), (list, str)):
        status, answer = answer.get("statusCode", 200), answer["body"]  # Lambdas for API Gateway wrap their response
        if isinstance(status, int) and status >= 400:
            return [_failure(sample_id, f"the handler answered statusCode {status}: {answer}") for sample_id in ids]
        if isinstance(answer, str):
            try:
                answer = json.loads(answer)
            except (ValueError, RecursionError):
                return [_failure(sample_id, "the handler's body is not valid JSON") for sample_id in ids]
    if not isinstance(answer, list):
        reason = f"the handler returned {_kind(answer)}; it must return a list of objects, one per sample"
        return [_failure(sample_id, reason) for sample_id in ids]
    rows: Json = {}
    duplicates: set[str] = set()
    nameless = 0
    for row in answer:
        row_id = str(row["id"]) if isinstance(row, dict) and row.get("id") is not None else None
        if row_id is None:
            nameless += isinstance(row, dict)
            continue
        if row_id in rows:
            duplicates.add(row_id)
        rows[row_id] = row
    matched = []
    for sample_id in ids:
        if sample_id in duplicates:
            matched.append(_failure(sample_id, DUPLICATE_ROWS))
        elif sample_id not in rows:
            rest = f"; {nameless} of its rows have no id" if nameless else ""
            matched.append(_failure(sample_id, f"the handler returned no row with this id{rest}"))
        else:
            matched.append(_row(sample_id, rows[sample_id]))
    return matched


def _failure(sample_id: str, error: str) -> Json:
    return {"id": sample_id, "aggregate_reward_score": None, "metrics_list": [], "error": _text(error)}


def _row(sample_id: str, row: Json) -> Json:
    error = row.get("error")
    if error is not None:
        return _failure(sample_id, str(error) or "the handler reported an error without a text")
    value = row.get("aggregate_reward_score")
    problem = _number_problem("aggregate_reward_score", value)
    if problem:
        return _failure(sample_id, problem)
    components, warnings = _components(row.get("metrics_list") or [])
    reward = float(value)  # type: ignore[arg-type]  # the check above has found a number
    scored: Json = {"id": sample_id, "aggregate_reward_score": reward, "metrics_list": components}
    explanation = row.get("explanation")
    if isinstance(explanation, str):
        scored["explanation"] = _text(explanation)
    if row.get("warnings"):
        warnings = [*_stated_warnings(row["warnings"]), *warnings]
    if warnings:
        scored["warnings"] = warnings[:_MOST_WARNINGS]
    return scored


def _components(metrics: Any) -> tuple[list[Json], list[Json]]:
    """The components of a row, and warnings about those that had to be converted or dropped.

    A reward is worth more than its components, so a component that is wrong does not cost the reward.
    """
    if not isinstance(metrics, list):
        return [], [_warning("MetricDropped", f"metrics_list is {_kind(metrics)}, not a list")]
    components, warnings = [], []
    for metric in metrics:
        if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
            text = "metrics_list holds something that is not an object with a name"
            warnings.append(_warning("MetricDropped", text))
            continue
        value = metric.get("value")
        if isinstance(value, bool):
            text = f"metric {metric['name']!r}: value is a boolean, which counts as {int(value)}"
            warnings.append(_warning("MetricConverted", text))
            value = float(value)
        problem = _number_problem("value", value)
        if problem:
            warnings.append(_warning("MetricDropped", f"metric {metric['name']!r}: {problem}"))
            continue
        kind = "Metric" if metric.get("type") == "Metric" else "Reward"
        number = float(value)  # type: ignore[arg-type]  # the check above has found a number
        components.append({"name": _text(metric["name"]), "value": number, "type": kind})
    return components, warnings


def _stated_warnings(warnings: Any) -> list[Json]:
    """The warnings that a row already has, because it comes from another reward server or from a worker."""
    if not isinstance(warnings, list):
        return []
    return [
        _warning(warning["reason"], warning["message"])
        for warning in warnings
        if isinstance(warning, dict)
        and warning.get("reason") in _WARNING_REASONS
        and isinstance(warning.get("message"), str)
    ]


def _warning(reason: str, message: str) -> Json:
    return {"reason": reason, "message": _text(message)[:2000]}


def _text(text: str) -> str:
    # A JSON string can contain half a surrogate pair, which cannot be encoded as UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _number_problem(name: str, value: Any) -> str | None:
    if type(value) is float and math.isfinite(value):
        return None
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
