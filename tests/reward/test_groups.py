"""Rewards that see all completions of a prompt together: groups are never split, and judges rank them."""

import itertools
import json
import random
import re

import pytest
from pydantic import ValidationError
from support.reward_server import sample
from support.services import chat, rating

from rft_api.groups import group_id, split_groups, whole_batches
from rft_api.reward_function import RewardFunctionSpec
from rft_reward.remote.judge_ranking import read_ranking

# Scores a completion by how much shorter it is than the mean of its group; fails if it does not see a whole group.
RELATIVE = """
def lambda_handler(event, context):
    groups = {}
    for s in event:
        groups.setdefault(s["group"], []).append(s)
    rows = []
    for group in groups.values():
        texts = [s["messages"][-1]["content"] for s in group]
        if len(group) != group[0]["metadata"]["size"]:
            raise ValueError(f"a group of {len(group)}")
        if "raise" in texts:
            raise KeyError("raise")
        if "slow" in texts:
            while True:
                pass
        mean = sum(map(len, texts)) / len(texts)
        rows += [{"id": s["id"], "aggregate_reward_score": mean - len(s["messages"][-1]["content"])} for s in group]
    return rows
"""


def group_of(name, *texts):
    return [
        {**sample(f"{name}-{n}", text, "answer", {"size": len(texts)}), "group": name} for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def relative(server_for):
    return server_for({"timeout": "20s", "scope": "Group", "python": {"source": RELATIVE}})


def test_a_request_with_many_groups_is_never_split_within_one(relative):
    generator = random.Random(5)
    groups = [group_of(f"g{n}", *("x" * generator.randrange(30) for _ in range(1 + n % 9))) for n in range(200)]
    samples = [s for group in groups for s in group]
    generator.shuffle(samples)  # groups need not be in a row
    for _ in range(3):  # once the server knows how long a sample takes, it splits the batch over its workers
        rows = {row["id"]: row for row in relative.score(samples)}
        for group in groups:
            sizes = [len(s["messages"][-1]["content"]) for s in group]
            for s, size in zip(group, sizes, strict=True):
                assert rows[s["id"]].get("error") is None
                assert rows[s["id"]]["aggregate_reward_score"] == pytest.approx(sum(sizes) / len(sizes) - size)


def test_a_group_that_fails_fails_as_a_whole_and_alone(relative):
    rows = relative.score([*group_of("a", "x", "xxx"), *group_of("b", "x", "raise"), *group_of("c", "xx")])
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, -1.0, None, None, 0.0]
    assert "KeyError: 'raise'" in rows[2]["error"]
    assert rows[3]["error"] == rows[2]["error"]


def test_a_group_that_hangs_costs_no_other_group(server_for):
    server = server_for({"timeout": "8s", "scope": "Group", "python": {"source": RELATIVE}})
    rows = server.score([*group_of("a", "x", "xxx"), *group_of("b", "slow", "x")])
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, -1.0, None, None]
    assert "share of spec.timeout" in rows[3]["error"]


def test_an_exception_may_score_zero_for_the_whole_group(server_for):
    server = server_for({"timeout": "20s", "scope": "Group", "python": {"source": RELATIVE, "onError": "Zero"}})
    rows = server.score([*group_of("a", "x", "xxx"), *group_of("b", "x", "raise")])
    assert [row["aggregate_reward_score"] for row in rows] == [1.0, -1.0, 0.0, 0.0]
    assert [row.get("warnings", [{}])[0].get("reason") for row in rows] == [None, None, *["ErrorScoredZero"] * 2]


@pytest.mark.parametrize("group", [None, "", 7])
def test_a_sample_without_its_group_is_refused(relative, group):
    response = relative.client.post("/v1/score", json=[{**sample("a", "x"), "group": group}])
    assert response.status_code == 400
    assert response.json()["error"].startswith("[0].group: must be a text that all completions of a prompt share")


def test_tests_with_the_same_prompt_are_a_group(server_for):
    tests = [
        {"prompt": "p", "completion": "x", "metadata": {"size": 2}, "expect": {"minimum": "1", "maximum": "1"}},
        {"prompt": "q", "completion": "x", "metadata": {"size": 1}, "expect": {"minimum": "0", "maximum": "0"}},
        {"prompt": "p", "completion": "xxx", "metadata": {"size": 2}, "expect": {"minimum": "-1", "maximum": "-1"}},
    ]
    server_for({"timeout": "20s", "scope": "Group", "python": {"source": RELATIVE}, "tests": tests})


MODEL = {"url": "http://x/v1", "name": "m"}


@pytest.mark.parametrize(
    "grader",
    [
        {"builtin": {"name": "Math"}},
        {"http": {"url": "http://x"}},
        {"lambda": {"functionArn": "arn:aws:lambda:eu-west-1:1:function:g"}},
        {"openai": {"grader": {"type": "python", "source": "x"}}},
        {"combine": {"terms": [{"name": "a", "builtin": {"name": "Math"}}]}},
    ],
)
def test_rewards_that_cannot_use_groups_are_refused(grader):
    with pytest.raises(ValidationError, match="scope Group is for python and judge"):
        RewardFunctionSpec.model_validate({"scope": "Group", **grader})


def test_orders_without_groups_are_refused():
    judge = {"template": "Reasoning", "model": MODEL, "orders": 2}
    with pytest.raises(ValidationError, match=r"judge\.orders is for scope Group"):
        RewardFunctionSpec.model_validate({"judge": judge})
    terms = [{"name": "a", "judge": judge}]
    with pytest.raises(ValidationError, match=r"judge\.orders is for scope Group"):
        RewardFunctionSpec.model_validate({"combine": {"terms": terms}})
    RewardFunctionSpec.model_validate({"scope": "Group", "combine": {"terms": terms}})


def answers_of(asked):
    """The answers that a judge was shown, in their order."""
    told = asked.json()["messages"][1]["content"]
    return re.findall(r"⟦ANSWER \d+ [0-9a-f]{20}⟧\n(.*?)\n⟦/", told, re.DOTALL)


def ranking(places, reason="because"):
    return chat(json.dumps({"reason": reason, "ranking": places}))


def by_length(asked):
    """A judge that ranks longer answers higher, whatever their positions."""
    answers = answers_of(asked)
    lengths = sorted({len(answer) for answer in answers}, reverse=True)
    return ranking([[n for n, a in enumerate(answers, 1) if len(a) == length] for length in lengths])


@pytest.fixture
def judge(start_service):
    return start_service(by_length)


@pytest.fixture
def judged_by(judge, start_server):
    def start(more=None, **spec):
        model = {"url": f"{judge.url}/v1", "name": "m"}
        judge_spec = {"template": "InstructionFollowing", "model": model, **(more or {})}
        return start_server({"timeout": "20s", "scope": "Group", "judge": judge_spec, **spec}).wait_ready()

    return start


def scores(rows):
    assert [row.get("error") for row in rows] == [None] * len(rows)
    return [row["aggregate_reward_score"] for row in rows]


def test_a_judge_ranks_a_group_in_two_orders(judge, judged_by):
    rows = judged_by({"rubric": "5: it is long."}).score(group_of("g", "xx", "x", "xxxx", "yy"))
    assert scores(rows) == pytest.approx([0.5, 0.0, 1.0, 0.5])
    assert [len(judge.asked), judge.asked[0].json()["temperature"]] == [2, 0]
    first, second = map(answers_of, judge.asked)
    assert sorted(first) == ["x", "xx", "xxxx", "yy"]
    assert second == first[::-1]
    system = judge.asked[0].json()["messages"][0]["content"]
    assert "5: it is long." in system
    assert "does everything that was asked" not in system
    assert rows[0]["metrics_list"] == [{"name": "order_spread", "value": 0.0, "type": "Metric"}]
    assert re.fullmatch(r"This is answer \d of 4\. because", rows[0]["explanation"])


def test_a_judge_that_favours_a_position_tells_nothing_apart_and_shows_it(judge, judged_by):
    judge.respond = lambda asked: ranking([[n] for n, _ in enumerate(answers_of(asked), 1)])  # the first is the best
    rows = judged_by().score(group_of("g", "a", "b", "c"))
    assert scores(rows) == pytest.approx([0.5, 0.5, 0.5])
    assert sorted(row["metrics_list"][0]["value"] for row in rows) == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("orders", [1, 3, 8])
def test_the_number_of_orders(judge, judged_by, orders):
    rows = judged_by({"orders": orders}).score(group_of("g", "xx", "x", "xxx"))
    assert scores(rows) == pytest.approx([0.5, 0.0, 1.0])
    assert len({tuple(answers_of(asked)) for asked in judge.asked}) == min(len(judge.asked), 6)
    assert len(judge.asked) <= orders


def test_equal_completions_tie_and_are_shown_once(judge, judged_by):
    server = judged_by()
    rows = server.score(group_of("g", "xx", "x", "xx", "xx"))
    assert scores(rows) == pytest.approx([2 / 3, 0.0, 2 / 3, 2 / 3])  # beats one of three, and ties with two
    assert sorted(answers_of(judge.asked[0])) == ["x", "xx"]
    asked = len(judge.asked)
    assert scores(server.score(group_of("same", "x", "x"))) == [0.5, 0.5]
    assert scores(server.score(group_of("again", "xx", "x", "xx", "xx"))) == pytest.approx([2 / 3, 0.0, 2 / 3, 2 / 3])
    assert len(judge.asked) == asked
    assert server.metric("rft_reward_judge_cache_hits_total") == 2


def test_the_only_completion_of_a_prompt_is_rated_by_itself_and_says_so(judge, judged_by):
    judge.respond = lambda asked: rating(4) if "block ANSWER as" in asked.body.decode() else by_length(asked)
    server = judged_by()
    rows = server.score([*group_of("one", "x"), *group_of("two", "x", "xx")])
    assert scores(rows) == [0.75, 0.0, 1.0]
    assert [warning["reason"] for warning in rows[0]["warnings"]] == ["RatedAlone"]
    assert "warnings" not in rows[1]
    assert server.metric('rft_reward_sample_warnings_total{reason="RatedAlone"}') == 1


def test_an_answer_without_a_ranking_is_asked_for_once_more_and_then_an_error(judge, judged_by):
    server = judged_by({"orders": 1})
    answers = [chat("B is best"), ranking([[2], [1]])]
    judge.respond = lambda asked: answers.pop(0)
    assert sorted(scores(server.score(group_of("g", "a", "b")))) == [0.0, 1.0]
    assert [m["role"] for m in judge.asked[1].json()["messages"]] == ["system", "user", "assistant", "user"]
    judge.respond = lambda asked: ranking([[1], [1]])
    rows = server.score([*group_of("h", "a", "c"), *group_of("i", "d", "d")])
    assert [row["aggregate_reward_score"] for row in rows] == [None, None, 0.5, 0.5]
    assert rows[0]["error"].startswith("the judge's answer holds no ranking of 2 answers: ")


def test_a_group_that_is_too_large_says_so(judge, judged_by):
    rows = judged_by().score(group_of("g", *map(str, range(33))))
    assert "33 different completions; a judge ranks at most 32: lower samplesPerPrompt" in rows[0]["error"]
    assert judge.asked == []


def test_a_judge_of_groups_beside_a_builtin(judge, start_server):
    model = {"url": f"{judge.url}/v1", "name": "m"}
    terms = [
        {"name": "better", "judge": {"template": "Reasoning", "model": model}},
        {"name": "exact", "weight": "10", "builtin": {"name": "ExactMatch"}},
        {"name": "seen", "weight": "100", "python": {"source": RELATIVE}},
    ]
    server = start_server({"timeout": "20s", "scope": "Group", "combine": {"terms": terms}}).wait_ready()
    assert scores(server.score(group_of("g", "answer", "xx"))) == pytest.approx([11 - 200, 200])


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('{"reason": "r", "ranking": [[2], [1, 3]]}', [[2], [1, 3]]),
        ('{"ranking": [2, 1, 3]}', [[2], [1], [3]]),
        ('```json\n{"ranking": [["2"], ["1"], ["3"]]}\n```', [[2], [1], [3]]),
        ('<think>{"ranking": [[3], [2], [1]]}</think>{"ranking": [[1], [], [2, 3]]}', [[1], [2, 3]]),
        ('{"ranking": [[1, 2, 3]]} as I said: {"ranking": [[3, 2, 1]]}', [[1, 2, 3]]),
        ('{"ranking": [[1], [2], [3]]} or {"ranking": [[3], [2], [1]]}', None),
        ('{"ranking": [[1], [2]]}', None),
        ('{"ranking": [[1], [2], [3], [3]]}', None),
        ('{"ranking": [[1], [2], [4]]}', None),
        ('{"ranking": [[1], [2], [true]]}', None),
        ('{"ranking": [[1], [2], [3], ["no"]]}', None),
        ('{"ranking": "1, 2, 3"}', None),
        ('<think>{"ranking": [[1], [2], [3]]}', None),
        ("2 > 1 > 3", None),
        ('{"a":' * 100_000, None),
    ],
)
def test_reading_a_ranking(text, places):
    ranked = read_ranking(text, 3)
    assert (ranked and ranked.places) == places


def test_groups_are_those_of_the_same_prompt_and_answer():
    prompt = [{"role": "user", "content": "q"}]
    assert group_id(prompt, {"a": 1, "b": 2}) == group_id(prompt, {"b": 2, "a": 1})
    assert len({group_id(prompt, "x"), group_id(prompt, "y"), group_id([], "x")}) == 3


def test_batches_hold_whole_groups():
    generator = random.Random(3)
    for _ in range(50):
        samples = [{"group": str(generator.randrange(9))} for _ in range(generator.randrange(1, 60))]
        groups = split_groups(samples, by_group=True)
        batches = list(whole_batches(groups, 10))
        positions = list(itertools.chain.from_iterable(itertools.chain.from_iterable(batches)))
        assert sorted(positions) == list(range(len(samples)))
        for batch in batches:
            assert len(batch) == 1 or sum(map(len, batch)) <= 10
            for group in batch:
                assert len({samples[position]["group"] for position in group}) == 1
        assert sum(len({samples[position]["group"] for position in group}) for group in groups) == len(groups)
    assert split_groups([{}, {}], by_group=False) == [[0], [1]]
