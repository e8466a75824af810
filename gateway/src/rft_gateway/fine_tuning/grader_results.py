"""Makes OpenAI's answer to the run of a grader of the score that a reward server has given."""

from __future__ import annotations

import re
from typing import Any

from rft_api.model import Json
from rft_api.openai_grader import (
    Multi,
    PythonScript,
    asks_model,
    grader_parts,
    single_graders,
)
from rft_api.reward_protocol import Score
from rft_gateway.fine_tuning.request import EndpointGrader, FunctionGrader, Grader, LambdaGrader, OpenAIGrader

_OF_PART = re.compile(r"grader (.+?): ", re.DOTALL)
_NO_VALUE = "the data row has no "
_FORMULA = "calculate_output: "
_NO_ANSWER = "the model's answer holds no "


def describe_run(grader: Grader, score: Score, seconds: float) -> Json:
    """Return OpenAI's object of a run. A sample without a score has the reward 0, and the error says why.

    Args:
        grader: the grader.
        score: the score of the sample, or the reason why there is none.
        seconds: the time that scoring has taken.
    """
    components = {metric.name: metric.value for metric in score.metrics_list if metric.type == "Reward"}
    is_single = not isinstance(grader, (Multi, LambdaGrader, FunctionGrader))
    error = score.error or "; ".join(warning.message for warning in score.warnings or [])
    return {
        "reward": score.aggregate_reward_score or 0.0,
        "sub_rewards": {} if is_single else components,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": _errors(grader, score),
            "error": error or None,
            "explanation": score.explanation,
            "execution_time": seconds,
            "scores": {metric.name: metric.value for metric in score.metrics_list},
            "token_usage": None,
            "sampled_model_name": None,
        },
    }


def _errors(grader: Grader, score: Score) -> Json:
    """Return OpenAI's errors by their names."""
    errors: dict[str, Any] = {
        "formula_parse_error": False,
        "invalid_variable_error": False,
        "model_grader_parse_error": False,
        "model_grader_refusal_error": False,
        "model_grader_server_error": False,
        "model_grader_server_error_details": None,
        "other_error": False,
        "python_grader_runtime_error": False,
        "python_grader_runtime_error_details": None,
        "python_grader_server_error": False,
        "python_grader_server_error_type": None,
        "sample_parse_error": False,
        "truncated_observation_error": False,
        "unresponsive_reward_error": False,
    }
    raised = [warning.message for warning in score.warnings or [] if warning.reason == "ErrorScoredZero"]
    if raised:
        errors |= {"python_grader_runtime_error": True, "python_grader_runtime_error_details": "; ".join(raised)}
    if score.error is not None:
        errors |= _error(grader, score.error)
    return errors


def _error(grader: Grader, text: str) -> Json:
    """Return the error of a sample without a score, by its text and by the type of the part that it is about."""
    if isinstance(grader, (LambdaGrader, EndpointGrader, FunctionGrader)):
        return {"other_error": True}
    if _NO_VALUE in text:
        return {"invalid_variable_error": True}
    if text.startswith(_FORMULA):
        return {"formula_parse_error": True}
    if _NO_ANSWER in text:
        return {"model_grader_parse_error": True}
    asks, runs_code = _kinds(grader, text)
    if asks and not runs_code:
        return {"model_grader_server_error": True, "model_grader_server_error_details": text}
    if runs_code and not asks:
        return {"python_grader_server_error": True, "python_grader_server_error_type": text}
    return {"other_error": True}


def _kinds(grader: OpenAIGrader, text: str) -> tuple[bool, bool]:
    """Return whether an error may be that of a model, and whether it may be that of code: of the part that the text
    names, or of any part."""
    match = _OF_PART.match(text)
    named = dict(single_graders(grader)).get(match[1]) if match is not None else None
    if named is not None:
        return named.asks_model, isinstance(named, PythonScript)
    parts = [part for _, part in grader_parts(grader)]
    return asks_model(grader), any(isinstance(part, PythonScript) for part in parts)
