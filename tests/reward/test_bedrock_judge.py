"""A judge on Amazon Bedrock, against a server that speaks its Converse API."""

import json

import pytest
from support.services import Answer

MODEL = "anthropic.claude-x-v1:0"


def converse(text, stop="end_turn"):
    message = {"role": "assistant", "content": [{"text": text}]}
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    return Answer({"output": {"message": message}, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}})


def refused(status, kind):
    return Answer({"message": f"it was {kind}"}, status, {"x-amzn-errortype": kind})


@pytest.fixture
def service(start_service):
    return start_service(lambda asked: converse('{"reason": "r", "score": 4}'))


@pytest.fixture
def server(service, start_server):
    environment = {
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": service.url,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_CONFIG_FILE": "/nowhere",
    }
    model = {"bedrock": {"modelId": MODEL, "region": "eu-central-1"}}
    spec = {"timeout": "10s", "judge": {"template": "Summarization", "model": model}}
    return start_server(spec, environment=environment).wait_ready()


def test_bedrock_is_asked_through_converse(service, server):
    row = server.score_one("x")
    assert (row["aggregate_reward_score"], row["explanation"]) == (0.75, "r")
    asked = service.asked[-1]
    assert asked.path.startswith("/model/anthropic.claude-x-v1")
    assert asked.path.endswith("/converse")
    assert "/eu-central-1/bedrock/" in asked.headers["authorization"]
    request = asked.json()
    assert "as a summary" in request["system"][0]["text"]
    assert [message["role"] for message in request["messages"]] == ["user"]
    assert request["inferenceConfig"] == {"temperature": 0, "maxTokens": 1024}
    assert json.loads(request["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])["required"]
    assert server.metric('rft_reward_judge_tokens_total{kind="prompt"}') == 7


def test_models_without_structured_output(service, server):
    service.respond = lambda asked: (
        refused(400, "ValidationException") if "outputConfig" in asked.json() else converse('{"score": 5}')
    )
    assert server.score_one("x")["aggregate_reward_score"] == 1.0
    assert server.score_one("y")["aggregate_reward_score"] == 1.0
    assert len(service.asked) == 3


def test_trouble(service, server):
    answers = [refused(429, "ThrottlingException"), refused(503, "ServiceUnavailableException"), converse("hm")]
    service.respond = lambda asked: answers.pop(0) if answers else converse('{"score": 1}')
    assert server.score_one("x")["aggregate_reward_score"] == 0.0
    assert len(service.asked) == 4
    service.respond = lambda asked: refused(403, "AccessDeniedException")
    assert "it was AccessDeniedException" in server.score_one("y")["error"]
    service.respond = lambda asked: converse("I think", "max_tokens")
    assert "cut off after 1024 tokens" in server.score_one("z")["error"]
    for body in (b"", b"{}", b"[]", b"\xff", b'{"output": {"message": {"content": [{"toolUse": {}}]}}}', b"[" * 99_999):
        service.respond = lambda asked, body=body: Answer(body)
        assert server.score_one(str(body[:50]))["aggregate_reward_score"] is None
    assert "Traceback" not in server.log()
