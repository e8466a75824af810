"""What the gateway reads of a request, and what it leaves to the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from rft_gateway.errors import ApiError
from rft_gateway.requests import BEGINNING, Api, read_call


def read(document: object, api: Api = Api.CHAT):
    return read_call(api, document if isinstance(document, bytes) else json.dumps(document).encode())


def test_a_body_stays_as_it_is_byte_for_byte():
    body = b'{ "model": "m",  "messages": [], "temperature": 1.0, "x": 1e2 }'
    assert read(body).body_for("m") == body


def test_only_the_name_changes_where_a_server_has_another():
    call = read({"model": "m", "messages": [], "seed": 1})
    assert json.loads(call.body_for("base")) == {"model": "base", "messages": [], "seed": 1}


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS])
@pytest.mark.parametrize(
    ("options", "wants", "continuous"),
    [
        (None, False, False),
        ({}, False, False),
        ({"include_usage": False}, False, False),
        ({"include_usage": True}, True, False),
        ({"include_usage": True, "continuous_usage_stats": True}, True, True),
        ({"include_usage": False, "continuous_usage_stats": True}, False, False),  # vLLM sends none then
    ],
)
def test_every_stream_states_its_usage(api, options, wants, continuous):
    call = read({"model": "m", "stream": True, "stream_options": options}, api)
    assert (call.wants_usage, call.wants_continuous_usage) == (wants, continuous)
    sent = json.loads(call.body_for("m"))["stream_options"]
    assert sent == {"include_usage": True, "continuous_usage_stats": True}


def servers_read(body: bytes) -> Iterator[dict[str, Any]]:
    """What servers make of a body: vLLM and SGLang parse it with json or orjson, others with pydantic."""

    class Request(BaseModel):
        model_config = ConfigDict(extra="allow")
        model: str
        stream_options: dict[str, Any] | None = None

    yield json.loads(body)
    yield orjson.loads(body)
    yield Request.model_validate_json(body).model_dump()
    yield Request.model_validate(json.loads(body)).model_dump()
    yield from_json(body)


@pytest.mark.parametrize("end", ["", " ", "\r\n\t "])
def test_servers_understand_what_the_gateway_does_where_a_field_is_there_twice(end):
    body = (
        '{"model": "x", "stream": false, "stream_options": 3, "messages": [{"model": "y"}], "stream": true,'
        ' "model": "m", "n": 1, "stream_options": {"include_usage": false, "more": [1]}}' + end
    )
    call = read(body.encode())
    assert (call.model, call.stream, call.wants_usage) == ("m", True, False)
    sent = call.body_for("served")
    assert sent.startswith(body.rstrip()[:-1].encode())
    for document in servers_read(sent):
        assert document["model"] == "served"
        assert document["stream"] is True
        options = {"include_usage": True, "more": [1], "continuous_usage_stats": True}
        assert document["stream_options"] == options
        assert document["messages"] == [{"model": "y"}]
    for document in servers_read(call.body_for("m")):
        assert document["model"] == "m"


def test_responses_have_no_such_options():
    call = read({"model": "m", "stream": True, "input": "x"}, Api.RESPONSES)
    assert call.body_for("m") == call.body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "could not parse"),
        (b"{", "could not parse"),
        (b"[]", "is no object"),
        (b'"x"', "is no object"),
        (b'{"model": "m", "x": NaN}', "could not parse"),
        ('{"model": "m"}'.encode("utf-16"), "could not parse"),
        (b'{"model": "m", "x": "\\ud800"}', "could not parse"),
        (b'{"model": "m", "x": "\xff"}', "could not parse"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "could not parse"),
        (b'{"model": "m", "x": [' + b"0," * 2_000_001 + b"0]}", "values"),
        (b"{}", "model"),
        (b'{"model": null}', "model"),
        (b'{"model": ["m"]}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "m", "stream": "yes"}', "stream"),
        (b'{"model": "m", "stream": 1}', "stream"),
        (b'{"model": "m", "stream_options": [1]}', "stream_options"),
        (b'{"model": "m", "stream_options": ""}', "stream_options"),
        (
            b'{"model": "m", "stream": true, "stream_options": {"x": ' + b"[" * 500 + b"]" * 500 + b"}}",
            "nested too deeply",
        ),
        # vLLM reads such texts as false, and would state no usage
        (b'{"model": "m", "stream_options": {"include_usage": "no"}}', "stream_options.include_usage"),
        (b'{"model": "m", "stream_options": {"continuous_usage_stats": "off"}}', "continuous_usage_stats"),
        # and such numbers as 8
        *(
            (f'{{"model": "m", "{field}": {value}}}'.encode(), field)
            for field in ("n", "max_tokens", "max_completion_tokens")
            for value in ('"8"', "8.0", "true", "[]", "1e30", "18446744073709551616")
        ),
    ],
)
def test_what_is_no_request_is_refused(body, message):
    with pytest.raises(ApiError, match=message) as error:
        read(body)
    assert error.value.status == 400


@pytest.mark.parametrize("field", ["background", "previous_response_id"])
def test_stored_responses_are_refused_clearly(field):
    with pytest.raises(ApiError, match=field) as error:
        read({"model": "m", "input": "x", field: "resp_1"}, Api.RESPONSES)
    assert error.value.param == field


@pytest.mark.parametrize(
    ("api", "fields", "beginning"),
    [
        (Api.CHAT, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}, None),
        (Api.CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Be brief."}]}]}, "Be brief."),
        (Api.COMPLETIONS, {"prompt": ["Be brief.", "Hi"]}, None),
        (Api.RESPONSES, {"instructions": "Be brief.", "input": "Hi"}, None),
        (Api.RESPONSES, {"input": [{"role": "user", "content": "Be brief."}]}, "Be brief."),
        (Api.CHAT, {"messages": 3}, ""),
    ],
)
def test_the_beginning_of_a_prompt(api, fields, beginning):
    assert read({"model": "m", **fields}, api).beginning == ("Be brief.Hi" if beginning is None else beginning)


HIDDEN = "word " * 2000


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        (Api.CHAT, {"tools": [{"type": "function", "function": {"name": "f", "description": HIDDEN}}]}),
        (Api.CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {HIDDEN: {}}}}]}),
        (Api.CHAT, {"tools": [{"type": "image_url", "image_url": HIDDEN}]}),
        (Api.CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": HIDDEN}}]}]}),
        (Api.CHAT, {"messages": [{"role": "assistant", "reasoning_content": HIDDEN, "content": "x"}]}),
        (Api.CHAT, {"messages": [{"role": "user", "name": HIDDEN, "content": "x"}]}),
        (Api.CHAT, {"messages": [{"role": "user", "type": "image_url", "content": HIDDEN}]}),
        (Api.CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "text": HIDDEN}]}]}),
        (Api.CHAT, {"messages": [{"role": HIDDEN, "content": "x"}]}),
        (Api.CHAT, {"documents": [{"text": HIDDEN}]}),
        (Api.CHAT, {"chat_template": HIDDEN}),
        (Api.CHAT, {"chat_template_kwargs": {"any": [HIDDEN]}}),
        (Api.CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": HIDDEN}}}}),
        (Api.COMPLETIONS, {"suffix": HIDDEN}),
        (Api.COMPLETIONS, {"prompt": [[1, 2] * 1250]}),
        (Api.RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": HIDDEN}]}),
        (Api.RESPONSES, {"input": [{"type": "function_call", "name": "f", "arguments": HIDDEN}]}),
        (Api.RESPONSES, {"input": [{"type": "reasoning", "summary": [{"text": HIDDEN}]}]}),
        (Api.RESPONSES, {"prompt": {"id": "p", "variables": {"x": HIDDEN}}}),
    ],
)
def test_a_prompt_counts_in_whatever_field_it_is(api, fields):
    assert len(HIDDEN) // 4 <= read({"model": "m", **fields}, api).prompt_estimate < len(HIDDEN) // 4 + 50


def test_what_is_no_prompt_and_the_bytes_of_media_do_not_count():
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{HIDDEN}"}},
        {"type": "input_audio", "input_audio": {"data": HIDDEN, "format": "wav"}},
    ]
    fields = {"metadata": {"x": HIDDEN}, "user": HIDDEN, "stop": [HIDDEN], "logit_bias": {HIDDEN: 1}}
    body = {"model": "m", "messages": [{"role": "user", "content": parts}], **fields}
    assert 2048 < read(body).prompt_estimate < 2048 + 50
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{HIDDEN}"}
    body = {"model": "m", "input": [{"role": "user", "content": [image]}]}
    assert 1024 < read(body, Api.RESPONSES).prompt_estimate < 1024 + 50


@pytest.mark.parametrize("value", [1 << 62, (1 << 63) - 1, (1 << 64) - 1])
def test_estimates_have_an_end(value):
    call = read({"model": "m", "n": value, "max_tokens": value, "prompt": ["x", "y"]}, Api.COMPLETIONS)
    assert (call.token_estimate, call.prompts) == (1 << 40, 2)
    assert call.bounds.most_completions == 1 << 16


def test_the_beginning_is_short_and_tells_prompts_of_tokens_apart():
    long = read({"model": "m", "prompt": "x" * 10_000}, Api.COMPLETIONS)
    assert len(long.beginning) == BEGINNING
    assert long.prompt_estimate == 2501
    one, other = (read({"model": "m", "prompt": tokens}, Api.COMPLETIONS) for tokens in ([1, 23], [12, 3]))
    assert one.beginning != other.beginning
    assert one.prompt_estimate == 3  # one for each of two tokens


@pytest.mark.parametrize(
    ("api", "more", "completions"),
    [
        (Api.CHAT, {}, 0),
        (Api.CHAT, {"max_completion_tokens": 50}, 50),
        (Api.CHAT, {"max_tokens": 50}, 50),
        (Api.CHAT, {"max_tokens": 50, "max_completion_tokens": 70}, 70),
        (Api.CHAT, {"max_tokens": 50, "n": 3}, 150),
        (Api.CHAT, {"max_output_tokens": 50}, 0),
        (Api.COMPLETIONS, {"max_tokens": 50, "prompt": "one"}, 50),
        (Api.COMPLETIONS, {"max_tokens": 50, "prompt": ["one", "two"], "n": 2}, 200),
        (Api.COMPLETIONS, {"max_tokens": 50, "prompt": [[1, 2], [3]]}, 100),
        (Api.COMPLETIONS, {"max_tokens": 50, "prompt": [1, 2, 3]}, 50),
        (Api.COMPLETIONS, {"max_tokens": 50, "prompt": []}, 50),
        (Api.RESPONSES, {"max_output_tokens": 50, "input": "one"}, 50),
        (Api.EMBEDDINGS, {"max_tokens": 50, "input": "one"}, 0),
        # what the server refuses reserves nothing
        *((Api.CHAT, {"max_tokens": value}, 0) for value in (-1, 0, None)),
        *((Api.CHAT, {"max_tokens": 50, "n": value}, 50) for value in (-1, 0, None)),
    ],
)
def test_what_a_request_may_use_at_most(api, more, completions):
    call = read({"model": "m", **more}, api)
    assert call.token_estimate == call.prompt_estimate + completions
