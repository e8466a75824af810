"""A handler's answer, however wrong, becomes one score or one error per sample."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_api.reward_protocol import LARGEST_REWARD, build_sample, match_scores

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # half surrogate pairs, too
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
METRIC = st.fixed_dictionaries({}, optional={"name": ANY_JSON, "value": ANY_JSON, "type": ANY_JSON})
ROW = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "c", 1, None]) | ANY_JSON,
        "aggregate_reward_score": st.floats() | st.integers() | ANY_JSON,
        "metrics_list": st.lists(METRIC | ANY_JSON, max_size=3) | ANY_JSON,
        "error": st.none() | ANY_JSON,
    },
)
ANSWER = ANY_JSON | st.lists(ROW | ANY_JSON, max_size=5) | st.fixed_dictionaries({"body": ANY_JSON | st.lists(ROW)})


@given(st.lists(st.sampled_from(["a", "b", "c", "1"]), unique=True), ANSWER)
def test_any_answer_gives_one_score_or_error_per_sample(ids, answer):
    scores = match_scores(ids, answer)
    assert [score.id for score in scores] == ids
    for score in scores:
        assert (score.aggregate_reward_score is None) == (score.error is not None)
        if score.aggregate_reward_score is not None:
            assert abs(score.aggregate_reward_score) <= LARGEST_REWARD
        assert all(abs(metric.value) <= LARGEST_REWARD for metric in score.metrics_list)
        score.model_dump_json()


def row(value: Any, **further: Any) -> dict[str, Any]:
    return {"id": "a", "aggregate_reward_score": value, **further}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([row(math.nan)], "aggregate_reward_score is not a finite number"),
        ([row(math.inf)], "aggregate_reward_score is not a finite number"),
        ([row("0.5")], "aggregate_reward_score is a string, not a number"),
        ([row(True)], "aggregate_reward_score is a boolean, not a number"),
        ([row(None)], "aggregate_reward_score is missing"),
        ([row(10**400)], "aggregate_reward_score is not a finite number"),
        ([row(1e20)], "aggregate_reward_score is 1e+20; it must be between -1e+15 and 1e+15"),
        ([row(-(10**30))], "aggregate_reward_score is -1e+30; it must be between -1e+15 and 1e+15"),
        ([row(-1e15)], None),
        ([{"id": "a"}], "aggregate_reward_score is missing"),
        ([{"id": "b", "aggregate_reward_score": 1}], "the handler returned no row with this id"),
        ([row(1), row(1)], "the handler returned this id more than once"),
        ([row(1, error="no")], "no"),
        ([row(1, metrics_list={})], None),
        ([row(1, metrics_list={"name": "x"})], None),
        ([row(1, metrics_list=[{"value": 1}])], None),
        ([row(1, metrics_list=[{"name": "x"}])], None),
        ([row(1, metrics_list=[{"name": "x", "value": math.nan}])], None),
        ("text", "the handler returned a string; it must return a list of objects, one per sample"),
        (None, "the handler returned null; it must return a list of objects, one per sample"),
        ({"body": [row(1)]}, None),
        ({"statusCode": 200, "body": json.dumps([row(1)])}, None),
        ({"statusCode": 500, "body": "oops"}, "the handler answered statusCode 500: oops"),
        ({"body": "oops"}, "the handler's body is not valid JSON"),
        ([row(0), {"id": "z"}, 3, "x"], None),
        ([{**row(1), "id": "a"}], None),
    ],
)
def test_answers(answer, error):
    (score,) = match_scores(["a"], answer)
    assert score.error == error


def test_order_does_not_matter_and_numbers_match_texts():
    answer = [{"id": 2, "aggregate_reward_score": 2}, {"id": 1, "aggregate_reward_score": 1}]
    assert [score.aggregate_reward_score for score in match_scores(["1", "2"], answer)] == [1.0, 2.0]


def test_components_keep_their_kind():
    metrics = [
        {"name": "a", "value": 1, "type": "Metric"},
        {"name": "b", "value": 2},
        {"name": "c", "value": 3, "type": 4},
    ]
    (score,) = match_scores(["a"], [row(1, metrics_list=metrics)])
    assert [(m.name, m.value, m.type) for m in score.metrics_list] == [
        ("a", 1.0, "Metric"), ("b", 2.0, "Reward"), ("c", 3.0, "Reward"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "reason", "message"),
    [
        ({"name": "x"}, "MetricDropped", "metrics_list is an object, not a list"),
        ([{"value": 1}], "MetricDropped", "metrics_list holds something that is not an object with a name"),
        ([{"name": "", "value": 1}], "MetricDropped", "metrics_list holds a component whose name is empty"),
        ([{"name": " \t", "value": 1}], "MetricDropped", "metrics_list holds a component whose name is empty"),
        ([{"name": "x"}], "MetricDropped", "metric 'x': value is missing"),
        ([{"name": "x", "value": math.nan}], "MetricDropped", "metric 'x': value is not a finite number"),
        (
            [{"name": "x", "value": 1e308}],
            "MetricDropped",
            "metric 'x': value is 1e+308; it must be between -1e+15 and 1e+15",
        ),
        ([{"name": "x", "value": False}], "MetricConverted", "metric 'x': value is a boolean, which counts as 0"),
    ],
)
def test_a_bad_component_keeps_the_reward(metrics, reason, message):
    (score,) = match_scores(["a"], [row(0.5, metrics_list=metrics)])
    assert score.aggregate_reward_score == 0.5
    assert [(warning.reason, warning.message) for warning in score.warnings] == [(reason, message)]
    # The trainer matches the server's rows once more, which must not lose the warnings.
    assert match_scores(["a"], [score.model_dump(mode="json")]) == [score]


def test_code_cannot_flood_a_row_with_warnings():
    (score,) = match_scores(["a"], [row(1, metrics_list=[{"name": "x" * 9000}] * 1000)])
    assert len(score.warnings) == 16
    assert max(len(warning.message) for warning in score.warnings) < 300


def test_a_sample_has_the_reference_answer_in_both_places():
    sample = build_sample("1", [{"role": "user", "content": "q"}], "a", {"x": 1}, {"level": 3, "reference_answer": 0})
    assert sample == {
        "id": "1",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "reference_answer": {"x": 1},
        "metadata": {"level": 3, "reference_answer": {"x": 1}},
    }
