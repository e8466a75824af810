"""The reward protocol: what comes back for which answer of a handler, and for which request."""

import concurrent.futures
import json
import random

import pytest
from support.patience import wait_until
from support.reward_server import TOKEN

from rft_api import reward_protocol

ECHO = """
import json

def lambda_handler(event, context):
    answer = json.loads(event[0]["messages"][-1]["content"])
    return answer
"""
LENGTH = """
def helper(sample):
    return float(len(sample["messages"][-1]["content"]))

def lambda_handler(event, context):
    rows = [
        {"id": s["id"], "aggregate_reward_score": helper(s),
         "metrics_list": [{"name": "length", "value": helper(s), "type": "Metric"}]}
        for s in event
    ]
    return rows[::-1]
"""


def row(sample_id, score, **more):
    return {"id": sample_id, "aggregate_reward_score": score, "metrics_list": [], **more}


def test_rows_in_another_order_come_back_in_the_requests_order(handler, build_sample):
    samples = [build_sample(f"s{number}", "x" * number) for number in range(200)]
    rows = handler(LENGTH).score(samples)
    assert [r["aggregate_reward_score"] for r in rows] == [float(n) for n in range(200)]
    assert rows[7]["metrics_list"] == [{"name": "length", "value": 7.0, "type": "Metric"}]
    for scored in rows:
        reward_protocol.Score.model_validate(scored)


def test_handlers_see_the_samples_as_posted(handler):
    source = """
def lambda_handler(event, context):
    wanted = {"id": "a", "messages": [{"role": "assistant", "content": "é", "x": [1, None]}],
              "reference_answer": {"k": 1.5}, "metadata": {"reference_answer": {"k": 1.5}, "topic": "tax"},
              "topic": "tax",  # where handlers for Amazon Nova look for it
              "extra": True}
    right = event == [wanted] and context.function_name == "test" and context.aws_request_id
    right = right and 0 < context.get_remaining_time_in_millis() <= 60000
    return [{"id": "a", "aggregate_reward_score": 1 if right else 0}]
"""
    sample = {
        "id": "a",
        "messages": [{"role": "assistant", "content": "é", "x": [1, None]}],
        "reference_answer": {"k": 1.5},
        "metadata": {"reference_answer": {"k": 1.5}, "topic": "tax"},
        "extra": True,
    }
    assert handler(source).score([sample]) == [row("a", 1.0)]


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ([], "no row with this id"),
        ([row("0", 1)], "no row with this id"),
        ([row("one", 1), row("one", 0)], "more than once"),
        ([row("one", None)], "missing"),
        ([row("one", "1")], "a string, not a number"),
        ([row("one", True)], "a boolean, not a number"),
        ([row("one", [1])], "a list, not a number"),
        ([row("one", float("nan"))], "not a finite number"),
        ([row("one", float("inf"))], "not a finite number"),
        ([row("one", 10**400)], "not a finite number"),
        ([row("one", 1, error="could not")], "could not"),
        (None, "returned null"),
        ("text", "returned a string"),
        ({"id": "one"}, "returned an object"),
        ({"statusCode": 500, "body": "boom"}, "statusCode 500: boom"),
        ({"statusCode": 200, "body": "boom"}, "not valid JSON"),
        ([1, None, "x"], "no row with this id; 3 of its rows are no objects (the first is a number)"),
        ([{"id": None, "aggregate_reward_score": 1}] * 2, "no row with this id; 2 of its rows have no id"),
    ],
)
def test_unusable_answers_are_errors_and_never_zero(handler, answer, part):
    scored = handler(ECHO).score_one(json.dumps(answer))
    assert scored["aggregate_reward_score"] is None
    assert part in scored["error"]


@pytest.mark.parametrize(
    "answer",
    [
        [row("one", 0.5)],
        [{"id": "one", "aggregate_reward_score": 0.5}],
        {"statusCode": 200, "body": json.dumps([row("one", 0.5)])},
        {"statusCode": 200, "body": [row("one", 0.5)]},
        [row("0", 9), row("one", 0.5)],
    ],
)
def test_usable_answers(handler, answer):
    assert handler(ECHO).score_one(json.dumps(answer)) == row("one", 0.5)


NESTED = [json.loads('{"x":' * 900 + "1" + "}" * 900)]


@pytest.mark.parametrize(
    ("metrics", "kept", "warnings"),
    [
        ("x", [], [("MetricDropped", "metrics_list is a string, not a list")]),
        ([{"value": 1}], [], [("MetricDropped", "metrics_list holds something that is not an object with a name")]),
        ([{"name": "m", "value": None}], [], [("MetricDropped", "metric 'm': value is missing")]),
        (NESTED, [], [("MetricDropped", "metrics_list holds something that is not an object with a name")]),
        ([{"name": "m", "value": "1"}], [], [("MetricDropped", "metric 'm': value is a string, not a number")]),
        (
            [{"name": "ok", "value": True}, {"name": "n", "value": 2}, 7],
            [("ok", 1.0), ("n", 2.0)],
            [
                ("MetricConverted", "metric 'ok': value is a boolean, which counts as 1"),
                ("MetricDropped", "metrics_list holds something that is not an object with a name"),
            ],
        ),
    ],
)
def test_a_bad_component_does_not_cost_the_reward_and_is_counted(handler, metrics, kept, warnings):
    server = handler(ECHO)
    reasons = {reason for reason, _ in warnings}
    counted = {reason: server.metric(f'rft_reward_sample_warnings_total{{reason="{reason}"}}') for reason in reasons}
    scored = server.score_one(json.dumps([row("one", 0.5, metrics_list=metrics)]))
    assert scored["aggregate_reward_score"] == 0.5
    assert [(metric["name"], metric["value"]) for metric in scored["metrics_list"]] == kept
    assert [(warning["reason"], warning["message"]) for warning in scored["warnings"]] == warnings
    for reason in reasons:
        assert server.metric(f'rft_reward_sample_warnings_total{{reason="{reason}"}}') == counted[reason] + 1


def test_integers_of_64_bits_arrive_exactly(handler):
    source = """
def lambda_handler(event, context):
    return [{"id": s["id"], "aggregate_reward_score": int(s["reference_answer"] == int(s["messages"][-1]["content"]))}
            for s in event]
"""
    server = handler(source)
    for number in ((1 << 64) - 1, -(1 << 63), (1 << 53) + 1, 1234567890123456789):
        assert server.score_one(str(number), number, {"long": "1" * 40})["aggregate_reward_score"] == 1.0


def test_rows_that_are_not_json_cost_only_themselves(handler, build_sample):
    source = """
import decimal
def lambda_handler(event, context):
    value = {"d": decimal.Decimal(1), "s": {1, 2}, "ok": 1}
    return [{"id": s["id"], "aggregate_reward_score": value[s["id"]]} for s in event]
"""
    rows = handler(source).score([build_sample(name, "") for name in ("d", "ok", "s")])
    assert "Decimal is not JSON serializable" in rows[0]["error"]
    assert rows[1] == row("ok", 1.0)
    assert "set is not JSON serializable" in rows[2]["error"]


def test_rows_whose_methods_raise_cost_only_themselves(handler, build_sample):
    source = """
class Row(dict):
    def items(self):
        raise KeyError("lost")

def lambda_handler(event, context):
    rows = [{"id": s["id"], "aggregate_reward_score": 1} for s in event]
    return [Row(row) if row["id"] == "a" else row for row in rows]
"""
    rows = handler(source).score([build_sample("a", ""), build_sample("b", "")])
    assert "the row is not JSON: 'lost'" in rows[0]["error"]
    assert rows[1] == row("b", 1.0)


def test_texts_that_utf8_cannot_carry_are_answered(handler):
    source = "def lambda_handler(event, context):\n    raise ValueError('half \\ud800')"
    assert "ValueError: half ? (reward.py, line 2" in handler(source).score_one("")["error"]


def test_samples_that_nest_too_deeply_cost_only_themselves(handler, build_sample):
    nested = "x"
    for _ in range(400):
        nested = [nested]
    source = "def lambda_handler(event, context):\n    return [{'id': 'a', 'aggregate_reward_score': 2}]"
    rows = handler(source).score([build_sample("deep", "", nested), build_sample("a", "")])
    assert "the sample cannot be written as JSON" in rows[0]["error"]
    assert rows[1] == row("a", 2.0)


def test_names_that_are_no_text_are_answered(handler):
    text = '[{"id": "one", "aggregate_reward_score": 1, "metrics_list": [{"name": "\\ud800", "value": 1}]}]'
    assert handler(ECHO).score_one(text)["metrics_list"][0]["name"] == "?"


SAMPLE = {"id": "a", "messages": [{"role": "assistant", "content": "x"}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ({}, "must be a JSON array"),
        (["x"], "[0]: must be an object"),
        ([SAMPLE, {"messages": SAMPLE["messages"]}], "[1].id: is required"),
        ([{**SAMPLE, "id": 7}], "[0].id: must be a string"),
        ([{**SAMPLE, "id": ""}], "[0].id: must be a string"),
        ([SAMPLE, SAMPLE], "[1].id: is the same as that of [0]"),
        ([{"id": "a"}], "[0].messages: is required"),
        ([{"id": "a", "messages": []}], "[0].messages: must be a list with at least one"),
        ([{"id": "a", "messages": "x"}], "[0].messages: must be a list"),
        ([{"id": "a", "messages": [1]}], "[0].messages[0]: must be an object"),
        ([{"id": "a", "messages": [{"role": "user", "content": "x"}]}], "[0].messages[0].role: the last message"),
        ([{**SAMPLE, "metadata": []}], "[0].metadata: must be an object"),
        (
            [SAMPLE, {**SAMPLE, "id": "b", "reference_answer": 1180591620717411303424}],
            "[1].reference_answer: the integer 1180591620717411303424 does not fit in 64 bits: write it as text",
        ),
        ([{**SAMPLE, "metadata": {"a": [0, -(1 << 63) - 1]}}], "[0].metadata.a[1]: the integer -9223372036854775809"),
    ],
)
def test_bad_requests_name_position_and_field(handler, body, message):
    server = handler(ECHO)
    content = body if isinstance(body, bytes) else json.dumps(body)
    response = server.client.post("/v1/score", content=content)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_an_empty_array_gives_an_empty_array(handler):
    assert handler(ECHO).score([]) == []


def test_bodies_have_a_limit(handler):
    client = handler(ECHO).client
    assert client.post("/v1/score", content=b" " * ((64 << 20) + 1)).status_code == 413
    chunks = (b" " * (1 << 20) for _ in range(65))
    assert client.post("/v1/score", content=chunks).status_code == 413
    response = client.post("/v1/score", json=[{**SAMPLE, "id": str(number)} for number in range(8193)])
    assert response.status_code == 413
    assert "at most 8192" in response.json()["error"]


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic abc", "Bearer token\u00e9", "bearer-less"])
def test_requests_need_the_token(handler, header):
    server = handler(ECHO)
    headers = {} if header is None else {"Authorization": header.encode("utf-8")}
    del server.client.headers["Authorization"]
    try:
        response = server.client.post("/v1/score", json=[SAMPLE], headers=headers)
    finally:
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
    assert response.status_code == 401
    assert "Authorization" in response.json()["error"]


def test_batches_in_flight_keep_their_ids(handler, build_sample):
    server = handler(LENGTH)

    def batch(number):
        lengths = [random.Random(number).randrange(500) for _ in range(number % 40 + 1)]
        samples = [build_sample(f"{position}", "x" * length) for position, length in enumerate(lengths)]
        return [float(n) for n in lengths] == [r["aggregate_reward_score"] for r in server.score(samples)]

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert all(threads.map(batch, range(200)))


def test_metrics(handler, build_sample):
    server = handler(LENGTH)
    server.score([build_sample("a", "x"), build_sample("b", "xx")])
    text = server.client.get("/metrics").text
    for name in (
        'rft_reward_requests_total{code="200"}',
        'rft_reward_samples_total{outcome="scored"}',
        "rft_reward_batch_seconds_count",
        'rft_reward_score_bucket{le="+Inf"}',
        "rft_reward_queue_seconds_sum",
        'rft_reward_workers{state="idle"}',
        'rft_reward_component_count{component="length"}',
    ):
        assert server.metric(name) > 0, (name, text)
    assert server.metric('rft_reward_samples_total{outcome="failed"}') == 0
    assert server.client.get("/healthz").status_code == 200


def test_sigterm_finishes_what_is_in_flight(start_server, build_sample):
    source = """
import time
def lambda_handler(event, context):
    time.sleep(2)
    return [{"id": s["id"], "aggregate_reward_score": 1} for s in event]
"""
    server = start_server({"timeout": "60s", "python": {"source": source}}).wait_ready()
    idle = 2
    wait_until(lambda: server.metric('rft_reward_workers{state="idle"}') == idle)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:

        def begin():
            """The answer to a request that is being scored; None for one that was over before this process looked."""
            answer = thread.submit(server.score, [build_sample("a", "")])
            wait_until(lambda: server.metric('rft_reward_workers{state="idle"}') < idle or answer.done(), pause=0.01)
            return None if answer.done() else answer

        answer = wait_until(begin)
        assert server.stop() == 0
        assert answer.result() == [row("a", 1.0)]
