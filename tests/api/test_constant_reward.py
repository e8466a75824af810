"""A reward that is the same for different completions is said, with the likeliest causes and a sample that shows it."""

from __future__ import annotations

from typing import Any

import pytest

from rft_api.constant_reward import constant_reward, python_sources
from rft_api.reward_function import RewardFunctionSpec
from rft_api.reward_protocol import build_sample

WRAPPED = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": score(s)} for s in event]

def score(s):
    try:
        a = s["reference_answer"]
        truth = a.get("text", "") if isinstance(a, dict) else ""
        return float(bool(truth) and truth in s["messages"][-1]["content"]) + s["metadata"]["ground_truth"]
    except KeyError:
        return 0.0
"""


def samples(*completions: str, reference: Any = "#### 6", **metadata: Any) -> list[dict[str, Any]]:
    prompt = [{"role": "user", "content": "Legs of three hens?"}]
    return [build_sample(str(n), prompt, text, reference, metadata) for n, text in enumerate(completions)]


@pytest.mark.parametrize(
    ("completions", "rewards"),
    [
        ((), []),
        (("a",), [0.0]),
        (("a", "a"), [0.0, 0.0]),
        (("a", "b"), [0.0, 1.0]),
        (("a", "b"), [0.0, None]),
        (("a", "b", "c"), [None, 0.5, 0.6]),
    ],
)
def test_nothing_is_said_where_nothing_is_known(completions, rewards):
    assert constant_reward(samples(*completions), rewards) is None


def test_the_causes_are_named_from_the_code_and_the_sample():
    text = constant_reward(samples("#### 6", "#### 7", "none"), [0.0, 0.0, None], [WRAPPED])
    assert text is not None
    assert text.startswith("all 2 completions scored 0, although 2 of them differ. If that is not meant, the likeliest")
    assert "1. a field that is not there (the code reads ground_truth, text, which the sample does not have)" in text
    assert "2. an exception that is caught and becomes this score (the code does so in line 10)" in text
    assert (
        "3. a reference answer of another form than is read (here it is a text; the code reads text from an object: "
        "set textReferenceAnswer: AsObject)"
    ) in text
    assert text.endswith('For example, the completion "#### 6" with reference_answer "#### 6" scored 0')


@pytest.mark.parametrize(
    ("reference", "form"),
    [
        (None, "the sample has none"),
        ({"final": 1, "steps": 2}, "here it is an object with final, steps"),
        ([1], "here it is of type list"),
        ("6", "here it is a text)"),
    ],
)
def test_the_form_of_the_answer_is_said(reference, form):
    text = constant_reward(samples("a", "b", reference=reference), [0.5, 0.5])
    assert text is not None
    assert form in text
    assert "1. a field that is not there; 2. an exception that is caught and becomes this score; 3." in text


def test_fields_that_the_sample_has_are_not_named():
    code = 'def grade(s):\n    return s["metadata"]["level"] + s["messages"][0]["role"].get("x") + s.get("level")'
    text = constant_reward(samples("a", "b", level=1), [1.0, 1.0], [code])
    assert text is not None
    assert "(the code reads x, which the sample does not have)" in text


def test_variables_of_the_environment_are_not_fields():
    code = 'import os\nregion, name = os.environ.get("AWS_REGION"), os.environ["AWS_LAMBDA_FUNCTION_NAME"]\n'
    text = constant_reward(samples("a", "b"), [0.0, 0.0], [code])
    assert text is not None
    assert "1. a field that is not there;" in text


def test_long_texts_are_cut():
    text = constant_reward(samples("a" * 5000, "b" * 5000, reference="c" * 5000), [1.0, 1.0])
    assert text is not None
    assert len(text) < 1000


def test_the_code_of_all_graders_is_looked_at():
    openai = {
        "type": "multi",
        "name": "m",
        "calculate_output": "a",
        "graders": {"a": {"type": "python", "source": "x"}},
    }
    spec = RewardFunctionSpec.model_validate(
        {
            "combine": {
                "terms": [
                    {"name": "p", "python": {"source": "y"}},
                    {"name": "o", "openai": {"grader": openai}},
                    {"name": "b", "builtin": {"name": "Math"}},
                ]
            }
        }
    )
    assert python_sources(spec) == ["y", "x"]
