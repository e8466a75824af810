"""Lines of logs: what is redacted is in them in no other form either."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from rft_api.conversation_logs import ConversationLogs
from rft_api.gateway_routes import Route
from rft_api.invocation_log import Redaction, RedactionPattern
from rft_gateway.logs import Conversation
from rft_gateway.logs.record import conversation_line
from rft_gateway.requests import Api, read_call
from rft_gateway.usage import Usage

REDACTION = Redaction(patterns=[RedactionPattern(pattern="jane doe", replacement="[name]")])
TOKEN = {"token": "jane", "logprob": -0.5, "bytes": list(b"jane"), "top_logprobs": [{"token": " doe"}]}


def line_of(
    api: Api, request: dict[str, Any], answer: dict[str, Any] | bytes, redact: Redaction | None = REDACTION
) -> Any:
    logs = ConversationLogs(uri="s3://logs", redact=redact)
    route = Route(namespace="team", model="m", base="m", served_model="m", servers=[], logs=logs)
    call = read_call(api, json.dumps({"model": "m", **request}).encode())
    return json.loads(conversation_line(Conversation("1", datetime.now(UTC), route, call, answer, Usage())))


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "jane doe"}, "logprobs": {"content": [TOKEN]}, "token_ids": [74, 75]},
        {"text": "jane doe", "logprobs": {"tokens": ["jane", " doe"]}, "prompt_logprobs": [{"74": {"token": "jane"}}]},
        {"content": [{"type": "output_text", "text": "jane doe", "logprobs": [TOKEN]}]},
        {"message": "jane doe", "tokens": [74, 75]},
    ],
)
def test_a_redacted_text_is_not_kept_token_by_token(choice):
    request = {"messages": [{"role": "user", "content": "who?", "logprobs": [TOKEN]}], "logprobs": True}
    record = line_of(Api.CHAT, request, {"choices": [choice], "prompt_token_ids": [74, 75]})
    text = json.dumps(record)
    assert "[name]" in text
    assert [part for part in ("jane", "74", str(list(b"jane"))) if part in text] == []
    assert record["input"]["inputBodyJson"]["logprobs"] is True


@pytest.mark.parametrize("prompt", [[74, 75], [[74, 75], [75]]])
def test_a_prompt_of_tokens_is_kept_only_where_nothing_is_redacted(prompt):
    answer = {"choices": [{"text": "jane doe"}]}
    assert "prompt" not in line_of(Api.COMPLETIONS, {"prompt": prompt}, answer)["input"]["inputBodyJson"]
    record = line_of(Api.COMPLETIONS, {"prompt": prompt}, answer, redact=None)
    assert record["input"]["inputBodyJson"]["prompt"] == prompt
    texts = line_of(Api.COMPLETIONS, {"prompt": ["jane doe", "x"]}, answer)["input"]["inputBodyJson"]["prompt"]
    assert texts == ["[name]", "x"]


def test_of_a_large_last_event_the_response_is_kept():
    event = json.dumps({"type": "response.completed", "response": {"output": "x", "model": "served"}}).encode()
    line = line_of(Api.RESPONSES, {"input": "x", "stream": True}, event)
    assert line["output"]["outputBodyJson"] == {"output": "x", "model": "m"}
    other = line_of(Api.CHAT, {"messages": []}, json.dumps({"response": {"x": 1}}).encode())
    assert other["output"]["outputBodyJson"] == {"response": {"x": 1}, "model": "m"}
