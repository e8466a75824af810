"""`POST /v1/feedback`: kept beside the conversations of a model, of the key's own requests only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.conversation_logs import feedback, read, records
from support.gateway import Gateway, route
from support.patience import wait_until

from rft_api.conversation_logs import ConversationLogs
from rft_gateway.keys import Limits

MAIL = "jane@example.org"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def gateway(tmp_path: Path, server, logs) -> Iterator[Gateway]:
    """A gateway that keeps the conversations of `m`, but none of `base`."""
    server.behaviour.finish = "stop"
    log = ConversationLogs.model_validate({"uri": str(logs), "redact": {"patterns": [{"pattern": r"\S+@\S+"}]}})
    routes = [route("m", server.url, base="base", logs=log), route("base", server.url)]
    with Gateway(tmp_path, routes, "--spool", str(tmp_path / "spool"), "--log-seconds", "0.5") as gateway:
        yield gateway


def ask(gateway: Gateway, text: str, model: str = "m", token: str | None = None) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2}
    answer = gateway.post("/v1/chat/completions", body, token)
    assert answer.is_success, answer.text
    return answer


def give(gateway: Gateway, name: str, token: str | None = None, **fields: Any) -> httpx.Response:
    return gateway.post("/v1/feedback", {"id": name, **fields}, token)


def test_feedback_chooses_what_a_job_reads(gateway, logs):
    liked, disliked, corrected, _ = (ask(gateway, text) for text in ("one", "two", "three", "four"))
    answer = give(gateway, liked.json()["id"], rating="up", label="fast", comment="Thanks.")
    assert answer.status_code == 200
    assert answer.json().items() >= {"object": "feedback", "model": "m", "rating": "up", "label": "fast"}.items()
    assert give(gateway, disliked.headers["x-request-id"], rating="up").is_success
    assert give(gateway, disliked.headers["x-request-id"], rating="down").is_success
    assert give(gateway, corrected.json()["id"], corrected_answer=f"3, says {MAIL}").is_success
    wait_until(lambda: len(feedback(logs)) == 4 and len(records(logs)) == 4)
    assert MAIL not in str(feedback(logs))

    def read_texts(**options: Any) -> list[tuple[str, str | None]]:
        return [(prompt.messages[0]["content"], prompt.answer) for prompt in read(logs, **options)[0]]

    correction = ("three", "3, says [redacted]")
    assert read_texts() == [("one", "w0 w1 "), ("two", "w0 w1 "), correction, ("four", "w0 w1 ")]
    assert read_texts(feedback={"rating": "Up"}) == [("one", "w0 w1 "), correction]
    assert read_texts(feedback={"rating": "Down"}) == [("two", "w0 w1 ")]
    assert read_texts(feedback={"labels": ["fast", "other"]}) == [("one", "w0 w1 ")]
    assert read(logs, feedback={"rating": "Up"})[1].left_out == {"OtherFeedback": 2}


def test_requests_of_others_are_unknown(gateway, server):
    gateway.set_routes([
        route("m", server.url, logs=ConversationLogs(uri="/logs")),
        route("m", server.url, namespace="other", logs=ConversationLogs(uri="/logs")),
        route("base", server.url),
    ])  # fmt: skip
    stranger = gateway.add_new_key("key", namespace="other")
    narrow = gateway.add_new_key("narrow", models=("base",))
    name = ask(gateway, "one").headers["x-request-id"]
    answers = [
        give(gateway, name, stranger, rating="up"),
        give(gateway, name, narrow, rating="up"),
        give(gateway, "0" * 32, rating="up"),
        give(gateway, "' OR 1=1", rating="up"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["error"]["code"] == "request_not_found"
    assert give(gateway, name, "rft-wrong", rating="up").status_code == 401


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, None, "say something about the answer"),
        ({"rating": "good"}, "rating", "rating: "),
        ({"rating": 5}, "rating", "rating: "),
        ({"label": ""}, "label", "label: "),
        ({"comment": "x" * 20_000}, "comment", "comment: "),
        ({"corrected_answer": ["x"]}, "corrected_answer", "corrected_answer: "),
        ({"stars": 5}, "stars", "stars: "),
    ],
)
def test_what_is_no_feedback_is_refused(gateway, fields, param, message):
    name = ask(gateway, "one").headers["x-request-id"]
    answer = give(gateway, name, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(message)
    assert gateway.post("/v1/feedback", b"[]").status_code == 400
    with gateway.client() as client:
        assert client.get("/v1/feedback").status_code == 405


def test_feedback_with_many_fields_or_of_any_size_is_refused_before_it_is_validated(gateway):
    fields = gateway.post("/v1/feedback", {"id": "x", **{f"k{number}": 0 for number in range(300_000)}})
    assert (fields.status_code, fields.json()["error"]["code"]) == (400, "invalid_value")
    assert fields.json()["error"]["message"] == "an object in the body has 300,001 fields, and may have at most 1,000"
    inner = gateway.post("/v1/feedback", {"id": "x", "label": [{f"k{number}": 0 for number in range(1001)}]})
    assert inner.json()["error"]["message"].startswith("an object in the body has 1,001 fields")
    values = gateway.post("/v1/feedback", {"id": "x", "label": [0] * 600_001})
    assert (values.status_code, values.json()["error"]["message"]) == (400, "the body has more than 600,000 values")
    for body in (b"x" * (9 << 20), iter([b"x" * (1 << 20)] * 9)):
        with gateway.client() as client:
            large = client.post("/v1/feedback", content=body)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
        assert large.json()["error"]["message"] == "The body is larger than 8 MiB."


def test_the_longest_correction_is_taken(gateway, logs):
    name = ask(gateway, "one").json()["id"]
    longest = "\U0001f600," * (1 << 19)  # as text in ASCII, which the client writes, it has 7 MiB
    assert give(gateway, name, corrected_answer=longest).is_success
    wait_until(lambda: len(feedback(logs)) == 1)


def test_a_model_without_a_log_keeps_no_feedback(gateway):
    answer = give(gateway, ask(gateway, "one", "base").headers["x-request-id"], rating="up")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_without_logs")


def test_feedback_counts_for_the_limits_of_its_key(gateway):
    token = gateway.add_new_key("limited", limits=Limits(requests_per_minute=2))
    name = ask(gateway, "one", token=token).headers["x-request-id"]
    answer = give(gateway, name, token, rating="up")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    assert give(gateway, name, token, rating="up").status_code == 429


def test_feedback_is_taken_when_the_tokens_of_its_key_are_used_up(gateway):
    token = gateway.add_new_key("spent", limits=Limits(tokens_per_day=11))
    answer = ask(gateway, "a b c d e f g h i j", token=token)  # estimated as 9 tokens, and as 2 for its answer
    (entry,) = gateway.wait_for_entries(1)
    assert entry["prompt_tokens"] + entry["completion_tokens"] >= 11
    refused = gateway.post("/v1/completions", {"model": "m", "prompt": "one"}, token)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    given = give(gateway, answer.json()["id"], token, rating="up")
    assert (given.status_code, given.headers["x-ratelimit-remaining-tokens"]) == (200, "0")


def test_feedback_outlives_a_kill(gateway, logs):
    names = [ask(gateway, text).json()["id"] for text in ("one", "two")]
    for name in names:
        assert give(gateway, name, rating="up").is_success
    gateway.kill()
    gateway.start()
    wait_until(lambda: len(feedback(logs)) == 2)
    assert [f"chatcmpl-{line['requestId']}" for line in feedback(logs)] == names
