"""The reward protocol: requests and responses of `POST /v1/score`, as Amazon Bedrock's reward Lambdas have them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rft_api.component_names import component_name
from rft_api.exact_json import parse_text
from rft_api.foreign.text import one_line, printable
from rft_api.model import Json

SCORE_PATH = "/v1/score"
FinishReason = Literal["stop", "length"]
"""Whether a completion ended by itself, or at the token limit."""
DUPLICATE_ROWS = "the handler returned this id more than once"
"""The error of a sample for which a handler returned several rows."""
_WARNING_REASONS = ("ErrorScoredZero", "MetricConverted", "MetricDropped", "RatedAlone")
_MOST_WARNINGS = 16
"""Maximum number of warnings of one sample, because code of users decides how many there are."""
LONGEST_ERROR = 3000
"""Maximum number of characters of an error or a warning. Those of code have up to 2,000, and their place."""
LONGEST_EXPLANATION = 8000
"""Maximum number of characters of an explanation: some two pages."""
MOST_SAMPLE_COMPONENTS = 256
"""Maximum number of components of a sample; those beyond it are dropped with a warning."""
LARGEST_REWARD = 1e15
"""Largest absolute value of a reward and of a component. Training computes in float32: the square of 1e20 is infinite
there, so that a single completion with such a reward would leave no number in the weights of the model."""
_LARGEST_ANSWER = 64 << 20
_LARGEST_SCORE = 512 << 10
"""Bytes of a score: components, an explanation and warnings, each as many and as long as may be, take 400 KiB."""


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
    """Return the metadata of a sample, with what the trainer knows about the completion in its field `rft`.

    Args:
        metadata: the further fields of the data row.
        tokens: number of tokens of the completion, the EOS token included.
        finish_reason: whether it ended by itself, or at the token limit; None if nobody knows.
    """
    own = metadata.get("rft")
    facts = {"tokens": tokens} if finish_reason is None else {"tokens": tokens, "finish_reason": finish_reason}
    return {**metadata, "rft": {**own, **facts} if isinstance(own, dict) else facts}


def largest_answer(samples: int) -> int:
    """Return the largest size in bytes of a reward server's answer to so many samples."""
    return min(_LARGEST_ANSWER, _LARGEST_SCORE * (samples + 1))


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
            reason = f"the handler answered statusCode {status}: {_stated(answer)}"
            return [failed_row(sample_id, reason) for sample_id in ids]
        if isinstance(answer, str):
            try:
                answer = parse_text(answer)
            except ValueError:
                return [failed_row(sample_id, "the handler's body is not valid JSON") for sample_id in ids]
    if not isinstance(answer, list):
        reason = f"the handler returned {_kind(answer)}; it must return a list of objects, one per sample"
        return [failed_row(sample_id, reason) for sample_id in ids]
    rows: Json = {}
    duplicates: set[str] = set()
    lost = []
    for row in answer:
        row_id = _row_id(row)
        if row_id is None:
            lost.append(row)
            continue
        if row_id in rows:
            duplicates.add(row_id)
        rows[row_id] = row
    matched = []
    for sample_id in ids:
        if sample_id in duplicates:
            matched.append(failed_row(sample_id, DUPLICATE_ROWS))
        elif sample_id not in rows:
            matched.append(failed_row(sample_id, f"the handler returned no row with this id{_lost_rows(lost)}"))
        else:
            try:
                matched.append(_row(sample_id, rows[sample_id]))
            except Exception as error:  # of a value that nobody thought of: it costs this row only
                reason = f"the handler's row cannot be read ({type(error).__name__})"
                matched.append(failed_row(sample_id, reason))
    return matched


def _row_id(row: Any) -> str | None:
    """Return the id of a row; None if it has none. A number counts as its text."""
    row_id = row.get("id") if isinstance(row, dict) else None
    # The text of a list is made by a recursion, and that of a long integer is refused by Python: both raise.
    if isinstance(row_id, str):
        return row_id
    return str(row_id) if isinstance(row_id, float) or (type(row_id) is int and abs(row_id) < 1 << 64) else None


def _lost_rows(rows: Sequence[Any]) -> str:
    """Return what to say about rows that belong to no sample."""
    nameless = [row for row in rows if isinstance(row, dict)]
    others = [row for row in rows if not isinstance(row, dict)]
    text = f"; {len(nameless)} of its rows have no id" if nameless else ""
    odd = next((row["id"] for row in nameless if row.get("id") is not None), None)
    if odd is not None:
        text += f" that is a text or a number (one is {_kind(odd)})"
    if nameless and nameless[0].get("error"):
        text += f" (the first: {_stated(nameless[0]['error'], 300)})"
    if others:
        text += f"; {len(others)} of its rows are no objects (the first is {_kind(others[0])})"
    return text


def failed_row(sample_id: str, error: str) -> Json:
    """Return the row of a sample that could not be scored."""
    return {
        "id": sample_id,
        "aggregate_reward_score": None,
        "metrics_list": [],
        "error": error_line(error),
    }


def _stated(value: Any, maximum: int = LONGEST_ERROR) -> str:
    """Return what a handler has put in the place of a text: most often a text."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = f"{_kind(value)} that cannot be shown"
    return error_line(text, maximum)


def error_line(text: str, maximum: int = LONGEST_ERROR) -> str:
    """Return the text of an error or a warning, which code of users or another server may have written: as one line."""
    return one_line(_text(text), maximum)


def _row(sample_id: str, row: Json) -> Json:
    error = row.get("error")
    if error is not None:
        return failed_row(sample_id, _stated(error) or "the handler reported an error without a text")
    value = row.get("aggregate_reward_score")
    problem = _number_problem("aggregate_reward_score", value)
    if problem:
        return failed_row(sample_id, problem)
    components, warnings = _components(row.get("metrics_list") or [])
    reward = float(value)  # type: ignore[arg-type]  # the check above has found a number
    scored: Json = {"id": sample_id, "aggregate_reward_score": reward, "metrics_list": components}
    explanation = row.get("explanation")
    if isinstance(explanation, str):
        scored["explanation"] = printable(_text(explanation), LONGEST_EXPLANATION)
    if row.get("warnings"):
        warnings = [*_stated_warnings(row["warnings"]), *warnings]
    if warnings:
        scored["warnings"] = warnings[:_MOST_WARNINGS]
    return scored


def _components(metrics: Any) -> tuple[list[Json], list[Json]]:
    """Return the components of a row, and warnings about those that had to be converted or dropped.

    A reward is worth more than its components, so a component that is wrong does not cost the reward.
    """
    if not isinstance(metrics, list):
        return [], [_warning("MetricDropped", f"metrics_list is {_kind(metrics)}, not a list")]
    components, warnings = [], []
    if len(metrics) > MOST_SAMPLE_COMPONENTS:
        text = f"metrics_list has {len(metrics):,} components; the first {MOST_SAMPLE_COMPONENTS} are kept"
        warnings.append(_warning("MetricDropped", text))
        metrics = metrics[:MOST_SAMPLE_COMPONENTS]
    for metric in metrics:
        if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
            text = "metrics_list holds something that is not an object with a name"
            warnings.append(_warning("MetricDropped", text))
            continue
        if not metric["name"].strip():
            # In tables and series it would be a value of nothing.
            warnings.append(_warning("MetricDropped", "metrics_list holds a component whose name is empty"))
            continue
        name = component_name(_text(metric["name"]))
        value = metric.get("value")
        if isinstance(value, bool):
            text = f"metric {name!r}: value is a boolean, which counts as {int(value)}"
            warnings.append(_warning("MetricConverted", text))
            value = float(value)
        problem = _number_problem("value", value)
        if problem:
            warnings.append(_warning("MetricDropped", f"metric {name!r}: {problem}"))
            continue
        kind = "Metric" if metric.get("type") == "Metric" else "Reward"
        number = float(value)  # type: ignore[arg-type]  # the check above has found a number
        components.append({"name": name, "value": number, "type": kind})
    return components, warnings


def _stated_warnings(warnings: Any) -> list[Json]:
    """Return the warnings that a row already has, because it comes from another reward server or from a worker."""
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
    return {"reason": reason, "message": error_line(message)}


def _text(text: str) -> str:
    # A JSON string can contain half a surrogate pair, which cannot be encoded as UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _number_problem(name: str, value: Any) -> str | None:
    if type(value) is float and -LARGEST_REWARD <= value <= LARGEST_REWARD:
        return None
    if value is None:
        return f"{name} is missing"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{name} is {_kind(value)}, not a number"
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        return f"{name} is not a finite number"
    is_usual = -LARGEST_REWARD <= value <= LARGEST_REWARD
    return None if is_usual else f"{name} is {value:.3g}; it must be between -{LARGEST_REWARD:g} and {LARGEST_REWARD:g}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
