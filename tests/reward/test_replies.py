"""What reward code answers and says: too much of it, too deep, or made to look like something else."""

import json
import logging
import random

import orjson
import pytest
from support.hostile_replies import GREEDY, SOURCE
from support.memory import peak_bytes
from support.mutation import bounded

from rft_api.foreign.logs import LineFormatter
from rft_api.reward_protocol import LONGEST_ERROR, LONGEST_EXPLANATION, match_rows
from rft_reward import replies

ECHO = """
import json
def lambda_handler(event, context):
    return json.loads(event[0]["messages"][-1]["content"])
"""
EVIL = "x\n2026-11-29 00:00:00,000 ERROR forged\x1b[2J\x9b1m\u202e\u2028forged"
MOST_BYTES = 64 << 20


@pytest.mark.parametrize("greedy", GREEDY)
def test_answers_that_are_too_large_take_little_memory(server_for, greedy):
    server = server_for({"timeout": "30s", "sandbox": {"memory": "2Gi"}, "python": {"source": SOURCE}})
    before = peak_bytes(server.process.pid)
    row = server.score_one(GREEDY[greedy])
    assert row["aggregate_reward_score"] is None
    assert "make it return less" in row["error"]
    assert peak_bytes(server.process.pid) - before < MOST_BYTES
    assert server.client.get("/healthz").status_code == 200


def test_small_answers_with_many_values_are_not_parsed():
    answer = b"[" + b"{}," * 40_000 + b"{}]"
    assert len(answer) < replies.maximum_bytes(1, 0)
    with pytest.raises(replies.TooMuch, match="more than the 2,048 for a batch of 1"):
        replies.parse(answer, 1, b"")
    assert len(replies.parse(answer, 1, answer)) == 40_001  # it may repeat the request


def deep(levels):
    return orjson.loads("[" * levels + "]" * levels)


ODD_ROWS = {
    "an id of 985 lists": {"id": deep(985), "aggregate_reward_score": 1},
    "an id of objects": {"id": {"a": {"b": {}}}, "aggregate_reward_score": 1},
    "an id of 5,000 digits": {"id": 10**4999, "aggregate_reward_score": 1},
    "an id that is true": {"id": True, "aggregate_reward_score": 1},
    "an error of 985 lists": {"id": "bad", "error": deep(985)},
    "a score of 985 lists": {"id": "bad", "aggregate_reward_score": deep(985)},
    "components of 985 lists": {"id": "bad", "aggregate_reward_score": "x", "metrics_list": deep(985)},
    "warnings of 985 lists": {"id": "bad", "aggregate_reward_score": None, "warnings": deep(985)},
    "an error of white space": {"id": "bad", "error": " \n\t "},
    "no object": deep(985),
}


@pytest.mark.parametrize("odd", ODD_ROWS)
def test_a_row_that_cannot_be_read_costs_only_itself(odd):
    good = {"id": "good", "aggregate_reward_score": 0.5}
    bad_row, good_row = match_rows(["bad", "good"], [ODD_ROWS[odd], good])
    assert (good_row["aggregate_reward_score"], good_row.get("error")) == (0.5, None)
    assert bad_row["aggregate_reward_score"] is None
    assert bad_row["error"]
    (failed,) = match_rows(["bad"], {"statusCode": 500, "body": [ODD_ROWS[odd]]})
    assert "statusCode 500" in failed["error"]


def test_odd_rows_are_answered_by_the_server(handler, build_sample):
    for levels in (100, 900, 985, 990):
        answer = [{"id": "PLACE", "aggregate_reward_score": 1.0}, {"id": "good", "aggregate_reward_score": 0.5}]
        text = json.dumps(answer).replace('"PLACE"', "[" * levels + "]" * levels)
        bad, good = handler(ECHO).score([build_sample("bad", text), build_sample("good", json.dumps(answer[1:]))])
        assert good["aggregate_reward_score"] == 0.5
        assert bad["error"]


@pytest.mark.parametrize(
    "answer",
    [
        [{"id": "one", "error": EVIL}],
        [{"id": "one", "aggregate_reward_score": "x", "error": EVIL * 10_000}],
        {"statusCode": 500, "body": EVIL},
        [{"error": EVIL}],
        [{"id": "one", "aggregate_reward_score": 1.0, "metrics_list": [{"name": EVIL, "value": 1}, {"name": EVIL}]}],
        [{"id": "one", "aggregate_reward_score": 1, "warnings": [{"reason": "MetricDropped", "message": EVIL}]}],
        [{"id": "one", "aggregate_reward_score": 1, "explanation": EVIL.replace("\n", "") * 2000}],
    ],
)
def test_texts_of_code_are_one_line_and_cut(answer):
    (row,) = match_rows(["one"], answer)
    texts = [row.get("error", ""), row.get("explanation", "")]
    texts += [metric["name"] for metric in row["metrics_list"]] + [w["message"] for w in row.get("warnings", ())]
    assert any("forged" in text for text in texts)
    assert all(text.isprintable() and len(text) < 2 * LONGEST_EXPLANATION for text in texts)
    assert len(json.dumps(answer)) < 20_000 or any("more characters)" in text for text in texts)


@pytest.mark.parametrize(
    "source",
    [
        f"raise RuntimeError({EVIL!r})",
        f"raise type({EVIL!r}, (Exception,), {{}})",
        f"exec(compile('1/0', {EVIL!r}, 'exec'))",
        f"raise SystemExit({EVIL!r})",
        f"import json\njson.loads({EVIL!r})",
        f"print({EVIL!r}, flush=True)\nraise ValueError('forged')",
        f"import os\nos.write(2, {EVIL!r}.encode())\nraise ValueError('forged')",
        f"raise ValueError({EVIL!r} * 100_000)",
    ],
)
def test_code_forges_no_line_of_the_log_or_of_readiness(start_server, source):
    server = start_server({"sandbox": {"processes": 1}, "python": {"source": source + "\n" + ECHO}})
    message = server.wait_not_ready("could not be started")
    assert message.isprintable()
    assert len(message) < 2 * LONGEST_ERROR
    lines = server.log().splitlines()
    assert lines
    assert all(line.isprintable() and " ERROR forged" not in line[:40] for line in lines)


def test_a_traceback_forges_no_line_either():
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "said %s", (EVIL,), (type(error), error, None))
    lines = LineFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert lines[0].startswith("ERROR said x 2026")
    assert len(lines) > 1
    assert all(line.startswith("  | ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)


ODD = [None, True, -1, 0.5, 1e308, "", "one", "\ud800", EVIL, [], {}, [[]], 10**30]
FIELDS = ["id", "aggregate_reward_score", "metrics_list", "error", "explanation", "warnings", "name", "value", "reason"]


def _random_value(chance, depth=0):
    kind = chance.random()
    if depth > 4 or kind < 0.6:
        return chance.choice(ODD)
    if kind < 0.62:
        return deep(chance.choice([50, 200, 500]))
    if kind < 0.8:
        return [_random_value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {chance.choice(FIELDS): _random_value(chance, depth + 1) for _ in range(chance.randint(0, 5))}


def test_10_000_random_answers_lose_no_sample():
    chance, ids = random.Random(20261129), ["one", "two", "three"]
    scored = 0
    for _ in range(10_000):
        answer = [
            {"id": name, "aggregate_reward_score": 0.5, **({} if chance.random() < 0.5 else _fields(chance))}
            for name in ids
        ]
        if chance.random() < 0.5:
            answer.insert(chance.randint(0, 3), _random_value(chance))
        if chance.random() < 0.1:
            answer = chance.choice([_random_value(chance), {"statusCode": _random_value(chance), "body": answer}])
        text = json.dumps(answer).encode()
        if chance.random() < 0.2:
            text = text[: chance.randint(0, len(text))] + chance.choice([b"", b"NaN", b"\xff", b"]", b"{"])
        with bounded():
            try:
                parsed = replies.parse(text, 3, b"")
            except (ValueError, RecursionError):  # the pool says that it is garbled, for each sample
                continue
            rows = match_rows(ids, parsed)
        assert [row["id"] for row in rows] == ids
        for row in rows:
            assert (row["aggregate_reward_score"] is None) == bool(row.get("error"))
            json.dumps(row, allow_nan=False).encode()
            scored += row["aggregate_reward_score"] is not None
    assert 1000 < scored < 29_000


def _fields(chance):
    return {chance.choice(FIELDS): _random_value(chance) for _ in range(chance.randint(1, 3))}
