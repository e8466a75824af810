"""The real openai package, unmodified, at the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel
from support.gateway import Gateway
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_key import Limits

MESSAGES = [{"role": "user", "content": "what is one and one"}]
"""Five words, which the stand-in counts as tokens."""
TOOLS = [{"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.token, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


def last_usage(gateway: Gateway) -> tuple[int, int, int]:
    entry = gateway.entries()[-1]
    return entry["prompt_tokens"], entry["cached_tokens"], entry["completion_tokens"]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["base", "m"]
    assert client.models.retrieve("m").owned_by == "team"
    with pytest.raises(openai.NotFoundError, match="does not exist or you do not have access to it"):
        client.models.retrieve("other")


def test_chat(client, gateway):
    answer = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3)
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)
    assert last_usage(gateway) == (5, 0, 3)
    # the id of the answer is that of the ledger, so that whoever asks can name the request
    assert answer.id == f"chatcmpl-{gateway.entries()[-1]['id']}"
    assert answer._request_id == gateway.entries()[-1]["id"]


def test_several_completions(client, gateway):
    answer = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3, n=4)
    assert len(answer.choices) == 4
    assert last_usage(gateway) == (5, 0, 12)


def test_a_stream(client, gateway):
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "w0 w1 w2 "
    assert all(chunk.usage is None for chunk in chunks)
    assert last_usage(gateway) == (5, 0, 3)


def test_a_stream_with_usage(client, gateway):
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="m", messages=MESSAGES, max_tokens=3, n=2, stream=True, stream_options=options
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.choices) == (5, 6, [])
    assert last_usage(gateway) == (5, 0, 6)


def test_tools(client, gateway):
    answer = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3, tools=TOOLS)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weigh", '{"usage":{"unit":"kg"}}')
    with client.chat.completions.stream(model="m", messages=MESSAGES, max_tokens=3, tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.arguments == call.function.arguments
    assert last_usage(gateway) == (5, 0, 3)


def test_structured_output(client, server):
    class Result(BaseModel):
        value: int

    answer = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=Result)
    assert answer.choices[0].message.parsed == Result(value=2)
    assert b'"json_schema"' in server.bodies[-1]


def test_completions(client, gateway):
    answer = client.completions.create(model="m", prompt=["one two", "three"], max_tokens=2, n=2)
    assert [choice.text for choice in answer.choices] == ["w0 w1 "] * 4
    assert last_usage(gateway) == (3, 0, 8)
    chunks = list(client.completions.create(model="m", prompt=["one two", "three"], max_tokens=2, n=2, stream=True))
    assert len(chunks) == 8
    assert last_usage(gateway) == (3, 0, 8)


def test_responses(client, gateway):
    answer = client.responses.create(model="m", input="what is one and one", max_output_tokens=3)
    assert answer.output_text == "w0 w1 w2 "
    assert last_usage(gateway) == (5, 2, 3)
    events = list(client.responses.create(model="m", input="what is one", max_output_tokens=3, stream=True))
    assert events[-1].response.output_text == "w0 w1 w2 "
    assert last_usage(gateway) == (3, 1, 3)
    with pytest.raises(openai.BadRequestError, match="background is not supported"):
        client.responses.create(model="m", input="x", background=True)


def test_embeddings_are_refused_clearly(client, gateway):
    with pytest.raises(openai.BadRequestError, match="The model `m` does not support embeddings") as error:
        client.embeddings.create(model="m", input="one two")
    assert (error.value.param, error.value.code) == ("model", "unsupported_model")
    assert gateway.entries()[-1]["outcome"] == "Refused"


def test_embeddings_of_a_server_that_has_them(client, gateway, server):
    server.behaviour.embeddings = True
    answer = client.embeddings.create(model="m", input="one two", encoding_format="float")
    assert answer.data[0].embedding == [0.25, -0.5]
    assert last_usage(gateway) == (2, 0, 0)


def test_errors_are_the_exceptions_that_users_know(client, gateway, server):
    def ask(**more):
        return client.chat.completions.create(**{"model": "m", "messages": MESSAGES, **more})

    with pytest.raises(openai.NotFoundError) as error:
        ask(model="other")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="maximum context length") as error:
        ask(max_tokens=5000)
    assert (error.value.code, error.value.type) == ("context_length_exceeded", "invalid_request_error")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as error:
        client.with_options(api_key="rft-wrong").models.list()
    assert error.value.code == "invalid_api_key"


def test_limits_have_openais_headers(client, gateway):
    limited = client.with_options(api_key=gateway.add_new_key("limited", limits=Limits(requests_per_minute=1)))
    answer = limited.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=1)
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError, match="Rate limit reached for key limited") as error:
        limited.chat.completions.create(model="m", messages=MESSAGES)
    assert error.value.code == "rate_limit_exceeded"
    assert int(error.value.response.headers["retry-after"]) >= 1
    # the key has no limit of tokens, and others are not concerned
    assert "x-ratelimit-limit-tokens" not in answer.headers
    client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=1)


@pytest.mark.parametrize(
    ("status", "exception", "code"),
    [
        (400, openai.BadRequestError, None),
        (401, openai.InternalServerError, "server_refused"),  # the server refuses the gateway, not its user
        (429, openai.RateLimitError, None),
        (500, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, "server_error"),
    ],
)
def test_errors_of_servers(client, gateway, server, status, exception, code):
    server.behaviour.status = status
    with pytest.raises(exception) as error:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert error.value.code == code
    assert error.value.request_id == gateway.entries()[-1]["id"]
    assert gateway.entries()[-1]["outcome"] == ("Refused" if error.value.status_code < 500 else "ServerFailed")


def test_an_adapter_that_is_not_loaded_yet(client, server):
    server.models.remove("m")
    try:
        with pytest.raises(openai.InternalServerError, match="not available at the moment") as error:
            client.chat.completions.create(model="m", messages=MESSAGES)
    finally:
        server.models.append("m")
    assert error.value.status_code == 503
    assert error.value.response.headers["retry-after"] == "1"


def test_an_error_in_the_middle_of_a_stream(client, gateway, server):
    server.behaviour.error_at = 2
    stream = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=5, stream=True)
    with pytest.raises(openai.APIError, match="EngineCore encountered an issue") as error:
        list(stream)
    assert error.value.type == "server_error"
    assert last_usage(gateway) == (5, 0, 2)
    assert gateway.entries()[-1]["outcome"] == "ServerFailed"


def test_many_at_once_are_counted_as_the_server_counts(gateway, server):
    """Streams and others, of one completion or several: the ledger has the sums of the server's own counters."""
    before = len(gateway.entries())

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        common = {"model": ("m", "base")[number % 2], "max_tokens": 1 + number % 7, "n": 1 + number % 3}
        answer = await client.chat.completions.create(messages=MESSAGES, stream=number % 4 < 2, **common)
        if number % 4 < 2:
            async for _ in answer:
                pass

    async def ask_all() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key=gateway.token, timeout=PATIENCE_SECONDS
        ) as client:
            await asyncio.gather(*(ask(client, number) for number in range(120)))

    asyncio.run(ask_all())
    entries = gateway.entries()[before:]
    assert len(entries) == 120
    assert sum(entry["prompt_tokens"] for entry in entries) == server.counters.prompt_tokens
    assert sum(entry["completion_tokens"] for entry in entries) == server.counters.completion_tokens
    assert {entry["outcome"] for entry in entries} == {"Answered"}
