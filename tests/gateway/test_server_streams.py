"""Streams of servers that do not write what vLLM writes: what is recorded of them, and what their clients get."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.gateway import Gateway, route
from support.raw_server import raw_server

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
WORDS = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"three words here"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"


class Server:
    """A gateway before a server of the model `m` that answers with bytes of the test."""

    def __init__(self, gateway: Gateway, answers: list[bytes]):
        self.gateway = gateway
        self._answers = answers

    def ask(self, path: str, answer: bytes) -> httpx.Response:
        """Sends a request for a stream, which the server answers with these events."""
        self._answers[:] = [answer]
        content = {"messages": [{"role": "user", "content": "x" * 40}]} if path == CHAT else {"input": "x" * 40}
        return self.gateway.post(path, {"model": "m", "stream": True, **content})

    def recorded(self) -> tuple[str, int, int]:
        """Returns the outcome of the last request, and its tokens: of the prompt and of the completion."""
        entry = self.gateway.entries()[-1]
        return entry["outcome"], entry["prompt_tokens"], entry["completion_tokens"]


def sender(answers: list[bytes]) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(HEAD + answers[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    answers: list[bytes] = []
    folder: Path = tmp_path_factory.mktemp("gateway")
    with raw_server(sender(answers)) as url, Gateway(folder, [route("m", url)]) as gateway:
        yield Server(gateway, answers)


def without_usage(server: Server) -> float:
    return server.gateway.metrics().get('rft_gateway_without_usage_total{model="m",namespace="team"}', 0)


def test_tokens_that_a_server_does_not_state_are_estimated_and_that_is_counted(server):
    before = without_usage(server)
    answer = server.ask(CHAT, WORDS * 5 + DONE)
    assert answer.content == WORDS * 5 + DONE
    assert server.recorded() == ("Answered", 14, 5)  # a part for a token, and four characters for one of the prompt
    assert without_usage(server) == before + 1
    assert f"{answer.headers['x-request-id']}: team/m: no usage in the answer" in server.gateway.log


def test_what_is_stated_or_fails_is_not_counted_as_an_estimate(server):
    before = without_usage(server)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    total = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()
    server.ask(CHAT, WORDS + total + DONE)
    assert server.recorded() == ("Answered", 3, 2)
    server.ask(CHAT, WORDS)
    assert server.recorded() == ("ServerFailed", 14, 1)
    assert without_usage(server) == before


def test_a_response_that_failed_is_not_recorded_as_answered(server):
    part = {"type": "response.output_text.delta", "delta": "x"}
    failed = {"type": "response.failed", "response": {"status": "failed", "error": {"message": "x"}, "usage": None}}
    events = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in (part, failed))
    assert server.ask(RESPONSES, events).content == events
    assert server.recorded() == ("ServerFailed", 11, 1)


def test_tokens_that_the_request_cannot_have_are_estimated_and_that_is_counted(server):
    before = without_usage(server)
    most = (1 << 40) - 1
    chunk = {"delta": {"content": "x"}, "finish_reason": None}
    usage = {"prompt_tokens": most, "completion_tokens": most}
    indexes = b"".join(
        b"data: " + json.dumps({"choices": [{"index": index, **chunk}], "usage": usage}).encode() + b"\n\n"
        for index in range(100)
    )
    total = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()
    for sent in (indexes + DONE, indexes + total + DONE, indexes):
        server.ask(CHAT, sent)
        assert server.recorded()[1:] == (14, 100)
    assert without_usage(server) == before + 3
    more = {"prompt_tokens": 3, "completion_tokens": 2}
    others = b"".join(
        b'data: {"choices":[{"index":%d}],"usage":%b}\n\n' % (i, json.dumps(more).encode()) for i in (0, 1)
    )
    server.ask(CHAT, others + DONE)
    assert server.recorded() == ("Answered", 3, 2)  # one completion was asked for


def test_an_answer_that_states_too_many_tokens_has_none(tmp_path):
    usage = {"prompt_tokens": 1 << 39, "completion_tokens": 1}
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "x"}}], "usage": usage}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with (
        raw_server(lambda connection: connection.sendall(head + body)) as url,
        Gateway(tmp_path, [route("m", url)]) as gateway,
    ):
        assert gateway.post(CHAT, {"model": "m", "messages": []}).is_success
        (entry,) = gateway.entries()
        assert (entry["outcome"], entry["prompt_tokens"], entry["completion_tokens"]) == ("Answered", 0, 0)
        assert gateway.metrics()['rft_gateway_without_usage_total{model="m",namespace="team"}'] == 1


def test_a_large_last_event_of_a_response_passes_and_is_counted(server):
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    response = {"id": "r", "output": [{"type": "message", "content": "x" * (3 << 20)}], "usage": usage}
    events = b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in (
            {"type": "response.output_text.delta", "delta": "x"},
            {"type": "response.completed", "response": response},
        )
    )
    assert server.ask(RESPONSES, events).content == events
    assert server.recorded() == ("Answered", 7, 2)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(b": \n\n" * 20_000, id="tiny events"),
        pytest.param(b"data:\n" * 20_000 + b"\n", id="lines"),
        pytest.param(b"data: " + b"x" * (2 << 20), id="no end"),
    ],
)
def test_a_stream_that_costs_too_much_is_broken_off(server, events):
    answer = server.ask(CHAT, WORDS + events + DONE)
    assert answer.content.startswith(WORDS)
    assert json.loads(answer.content.split(b"data: ")[-1])["error"]["code"] == "server_disconnected"
    assert server.recorded() == ("ServerFailed", 14, 1)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            HEAD.replace(b"connection: close", b"transfer-encoding: chunked") + b"1\r\n:\r\n" * 30_000, id="chunks"
        ),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000, id="interim answers"),
    ],
)
def test_a_server_that_sends_too_many_small_parts_is_given_up(tmp_path, sent):
    def serve(connection: socket.socket) -> None:
        while True:
            connection.sendall(sent)

    with raw_server(serve) as url, Gateway(tmp_path, [route("m", url)]) as gateway:
        answer = gateway.post(CHAT, {"model": "m", "stream": True, "messages": []})
        code = answer.json()["error"]["code"] if answer.is_error else answer.text.partition("data: ")[2]
        assert "server_disconnected" in code
        (entry,) = gateway.entries()
        assert entry["outcome"] == "ServerFailed"
