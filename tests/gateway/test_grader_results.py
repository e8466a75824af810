"""OpenAI's answer to the run of a grader, of what reward servers say of a sample."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse
from support.fine_tuning import LAMBDA, SCORE_MODEL, STRING_CHECK

from rft_api.reward_protocol import match_scores
from rft_gateway.fine_tuning.grader_results import describe_run
from rft_gateway.fine_tuning.request import read_validation

PYTHON = {"type": "python", "name": "code", "source": "def grade(sample, item):\n    return 1.0\n"}


def multi(**graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": " + ".join(graders)}


def described(grader: dict[str, Any], **row: Any) -> GraderRunResponse:
    (score,) = match_scores(["run"], [{"id": "run", **row}])
    document = describe_run(read_validation({"grader": grader}).grader, score, 0.5)
    return GraderRunResponse.model_validate(document, strict=True)


def raised(result: GraderRunResponse) -> set[str]:
    errors = result.metadata.errors.model_dump(by_alias=True)
    return {name for name, value in errors.items() if value is True}


def test_a_score_with_its_parts():
    metrics = [
        {"name": "exact", "value": 1.0, "type": "Reward"}, {"name": "exact/passed", "value": 1.0, "type": "Metric"}
    ]  # fmt: skip
    row = {"aggregate_reward_score": 0.75, "metrics_list": metrics, "explanation": "because"}
    single = described(STRING_CHECK, **row)
    assert (single.reward, single.sub_rewards, raised(single)) == (0.75, {}, set())
    assert single.metadata.scores == {"exact": 1.0, "exact/passed": 1.0}
    assert (single.metadata.name, single.metadata.type, single.metadata.execution_time) == (
        "exact",
        "string_check",
        0.5,
    )
    assert described(multi(exact=STRING_CHECK), **row).sub_rewards == {"exact": 1.0}
    ours = {"type": "reward_function", "name": "ours"}
    assert described(ours, **row).sub_rewards == {"exact": 1.0}


@pytest.mark.parametrize(
    ("grader", "text", "name"),
    [
        (STRING_CHECK, "grader exact: the data row has no item.x, which ...", "invalid_variable_error"),
        (multi(a=STRING_CHECK), "calculate_output: float division by zero", "formula_parse_error"),
        (SCORE_MODEL, "the model's answer holds no result: seven", "model_grader_parse_error"),
        (SCORE_MODEL, "model judge answered 500: down", "model_grader_server_error"),
        (PYTHON, "scoring took more than 5 s", "python_grader_server_error"),
        (multi(a=PYTHON, b=SCORE_MODEL), "grader a: the code ran out of memory", "python_grader_server_error"),
        (multi(a=PYTHON, b=SCORE_MODEL), "grader b: the model is away", "model_grader_server_error"),
        (multi(a=PYTHON, b=SCORE_MODEL), "scoring took more than 5 s", "other_error"),
        (STRING_CHECK, "scoring took more than 5 s", "other_error"),
        (LAMBDA, "the data row has no x", "other_error"),
        ({"type": "reward_function", "name": "ours"}, "calculate_output: x", "other_error"),
    ],
)  # fmt: skip
def test_errors_have_their_names(grader, text, name):
    result = described(grader, error=text)
    assert (result.reward, raised(result)) == (0.0, {name})
    assert result.metadata.to_dict()["error"] == text
    details = result.metadata.errors
    if name == "model_grader_server_error":
        assert details.api_model_grader_server_error_details == text
    if name == "python_grader_server_error":
        assert details.python_grader_server_error_type == text


def test_code_that_raises_scores_0_and_says_why():
    warning = {"reason": "ErrorScoredZero", "message": "grader code: the code raised ValueError: x"}
    result = described(PYTHON, aggregate_reward_score=0.0, warnings=[warning])
    assert (result.reward, raised(result)) == (0.0, {"python_grader_runtime_error"})
    assert result.metadata.errors.python_grader_runtime_error_details == warning["message"]
