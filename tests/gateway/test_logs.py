"""Conversations that the gateway keeps: the reader of invocation logs understands each, and nothing else is written."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.conversation_logs import objects, read, records
from support.gateway import Gateway, route
from support.memory import peak_bytes
from support.patience import PATIENCE_SECONDS, wait_until
from support.raw_server import raw_server

from rft_api.conversation_logs import ConversationLogs
from rft_api.exit_codes import ExitCode
from rft_api.invocation_log import Redaction, RedactionPattern

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two"}]
MIB = 1 << 20
MAIL = "jane.doe@example.org"
REDACTION = Redaction(patterns=[RedactionPattern(pattern=r"[\w.+-]+@[\w-]+\.[\w.]+", replacement="[email]")])


class Logged:
    """A gateway that keeps conversations of the model `m` in a folder, and those of `base` nowhere."""

    def __init__(self, folder: Path, server: str, **more: Any):
        self.logs = folder / "logs"
        self.spool = folder / "spool"
        log = ConversationLogs.model_validate({"uri": str(self.logs), **more})
        routes = [route("m", server, base="base", logs=log), route("base", server)]
        self.gateway = Gateway(folder, routes, "--spool", str(self.spool), "--log-seconds", "0.5")

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.gateway.url}/v1", api_key=self.gateway.token, max_retries=0, timeout=PATIENCE_SECONDS
        )

    def wait_for_records(self, count: int) -> list[dict[str, Any]]:
        """Waits until the log has so many records, and returns them."""
        return wait_until(
            lambda: found if len(found := records(self.logs)) >= count else [],
            lambda: (len(records(self.logs)), self.gateway.log),
        )


@pytest.fixture
def logged(tmp_path: Path, server) -> Iterator[Logged]:
    server.behaviour.finish = "stop"
    logged = Logged(tmp_path, server.url)
    with logged.gateway:
        yield logged


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_comes_back_as_prompt_and_answer(logged, stream):
    with logged.client() as client:
        answer = client.chat.completions.create(
            model="m", messages=MESSAGES, max_tokens=3, stream=stream, metadata={"app": "tax", "tier": "gold"}
        )
        name = next(iter(answer)).id if stream else answer.id
        if stream:
            list(answer)
    [record] = logged.wait_for_records(1)
    assert name == f"chatcmpl-{record['requestId']}"
    assert record["schemaType"] == "ModelInvocationLog"
    assert record["modelId"] == "m"
    assert record["requestMetadata"] == {"app": "tax", "tier": "gold"}
    assert (record["input"]["inputTokenCount"], record["output"]["outputTokenCount"]) == (4, 3)
    [prompt], report = read(logged.logs, requestMetadataFilters={"equals": {"app": "tax"}})
    assert prompt.messages == MESSAGES
    assert prompt.answer == "w0 w1 w2 "
    assert report.left_out == {}
    [file] = objects(logged.logs)
    year, month, day, hour, name = file.relative_to(logged.logs).parts
    assert name.startswith(f"{year}{month}{day}T{hour}")
    wait_until(lambda: not list(logged.spool.rglob("*.jsonl")))  # it is removed when the object is there


@pytest.mark.parametrize("stream", [False, True])
def test_completions_and_responses_come_back(logged, stream):
    with logged.client() as client:
        text = client.completions.create(model="m", prompt="three four", max_tokens=2, stream=stream)
        response = client.responses.create(
            model="m", instructions="Be brief.", input="five", max_output_tokens=2, stream=stream
        )
        if stream:
            list(text)
            list(response)
    logged.wait_for_records(2)
    prompts, report = read(logged.logs)
    assert report.left_out == {}
    assert [(prompt.messages, prompt.answer) for prompt in prompts] == [
        ([{"role": "user", "content": "three four"}], "w0 w1 "),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "five"}], "w0 w1 "),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_and_calls_of_tools_are_kept_whole(logged, stream):
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}
    with logged.client() as client:
        for more in ({"n": 3}, {"tools": [tool]}):
            answer = client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=3, stream=stream, extra_body=more
            )
            if stream:
                list(answer)
    several, calling = logged.wait_for_records(2)
    choices = several["output"]["outputBodyJson"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in choices} == {"w0 w1 w2 "}
    message = calling["output"]["outputBodyJson"]["choices"][0]["message"]
    [call] = message["tool_calls"]
    assert message["content"] is None
    assert call["id"] == "call_0"
    assert call["function"] == {"name": "weigh", "arguments": '{"usage":{"unit":"kg"}}'}
    # The prompt is the same, so that only one of them is used; a call is no answer.
    _, report = read(logged.logs)
    assert report.left_out == {"NoAnswer": 1}
    assert read(logged.logs, with_answers=False)[1].left_out == {"Duplicate": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_off_is_no_answer_to_learn_from(logged, server, stream):
    server.behaviour.finish = "length"
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 3, "stream": stream}
    assert logged.gateway.post("/v1/chat/completions", body).is_success
    logged.wait_for_records(1)
    assert read(logged.logs)[1].left_out == {"NoAnswer": 1}
    assert len(read(logged.logs, with_answers=False)[0]) == 1


def test_what_has_no_whole_answer_is_not_kept(logged, server):
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 4}
    server.behaviour.status = 500
    assert logged.gateway.post("/v1/chat/completions", body).status_code == 500
    server.behaviour.status = None
    server.behaviour.error_at = 2
    assert logged.gateway.post("/v1/chat/completions", {**body, "stream": True}).is_success
    server.behaviour.error_at = None
    server.behaviour.end_at = 2
    logged.gateway.post("/v1/chat/completions", {**body, "stream": True})
    server.behaviour.end_at = None
    server.behaviour.embeddings = True
    assert logged.gateway.post("/v1/embeddings", {"model": "m", "input": "one"}).is_success
    assert logged.gateway.post("/v1/chat/completions", {**body, "model": "base"}).is_success
    last = logged.gateway.post("/v1/chat/completions", body).headers["x-request-id"]
    assert [record["requestId"] for record in logged.wait_for_records(1)] == [last]


def test_a_share_is_kept_which_the_ids_decide(tmp_path, server):
    logged = Logged(tmp_path, server.url, fraction="0.25")
    with logged.gateway:
        with logged.gateway.client() as client:
            for _ in range(200):
                assert client.post("/v1/completions", json={"model": "m", "prompt": "1", "max_tokens": 1}).is_success
        assert logged.gateway.stop() == 0
    kept = len(records(logged.logs))
    assert 20 <= kept <= 85  # beyond that in one of 30 millions


def test_what_is_redacted_is_on_no_disk(tmp_path, server):
    server.behaviour.finish = "stop"
    # The destination cannot be written: everything stays in the spool.
    (tmp_path / "logs").write_text("in the way")
    logged = Logged(tmp_path, server.url, redact=REDACTION.model_dump())
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {MAIL: {"const": MAIL}}}}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"I am {MAIL}, hello"}]}],
        "metadata": {"user": MAIL, MAIL: "x"},
        "tools": [tool],
        "user": MAIL,
    }
    with logged.gateway as gateway:
        for stream in (False, True):
            assert gateway.post("/v1/chat/completions", {**body, "stream": stream}).is_success
        wait_until(lambda: "logs of team wait" in gateway.log)
        gateway.kill()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".jsonl" for path in files)
        assert [path for path in files if MAIL.encode() in path.read_bytes()] == []
        (tmp_path / "logs").unlink()
        gateway.start()
        first, second = logged.wait_for_records(2)
    assert first["requestMetadata"] == {"user": "[email]", "[email]": "x"}
    assert first["input"]["inputBodyJson"]["messages"] == second["input"]["inputBodyJson"]["messages"]
    [prompt], _ = read(logged.logs, with_answers=False)
    assert prompt.messages == [{"role": "user", "content": "I am [email], hello"}]


def test_a_full_spool_keeps_no_more_and_answers_all_the_same(tmp_path, server):
    (tmp_path / "logs").write_text("in the way")
    logged = Logged(tmp_path, server.url)
    logged.gateway = Gateway(
        tmp_path, [route("m", server.url, logs=ConversationLogs(uri=str(logged.logs)))],
        "--spool", str(logged.spool), "--spool-bytes", "20000", "--log-seconds", "0.5",
    )  # fmt: skip
    with logged.gateway as gateway:
        for _ in range(30):
            answer = gateway.post("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": 1})
            assert answer.is_success
        metrics = gateway.metrics()
        kept = metrics['rft_gateway_log_records_total{model="m",namespace="team",result="Kept"}']
        full = metrics['rft_gateway_log_records_total{model="m",namespace="team",result="SpoolFull"}']
        assert (kept + full, kept >= 5, full >= 5) == (30, True, True)
        assert metrics["rft_gateway_log_waiting_records"] == kept
        assert 0 < metrics["rft_gateway_log_waiting_bytes"] <= 10_000
        assert metrics["rft_gateway_log_waiting_seconds"] > 0
        wait_until(lambda: gateway.metrics().get('rft_gateway_log_failures_total{namespace="team"}'))
        # Room comes back.
        (tmp_path / "logs").unlink()
        logged.wait_for_records(int(kept))
        wait_until(lambda: gateway.metrics()["rft_gateway_log_waiting_records"] == 0)
        gateway.post("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": 1})
        logged.wait_for_records(int(kept) + 1)


@pytest.mark.parametrize("redaction", [None, REDACTION.model_dump()])
def test_what_is_too_large_for_the_reader_is_not_kept(tmp_path, server, redaction):
    logged = Logged(tmp_path, server.url, redact=redaction)
    with logged.gateway as gateway:
        for size in (9 << 20, (8 << 20) - 100):  # the body itself, and what is written around it
            body = {"model": "m", "prompt": "x" * size, "max_tokens": 1}
            assert gateway.post("/v1/completions", body).is_success
        assert gateway.metrics()['rft_gateway_log_records_total{model="m",namespace="team",result="TooLarge"}'] == 2
        assert gateway.post("/v1/completions", {**body, "prompt": "one"}).is_success
        assert [record["input"]["inputBodyJson"]["prompt"] for record in logged.wait_for_records(1)] == ["one"]


def test_texts_that_redaction_makes_too_large_for_the_reader_are_not_kept(tmp_path, server):
    bomb = Redaction(patterns=[RedactionPattern(pattern=r"[!\w]", replacement="!" * 256)] * 3)
    logged = Logged(tmp_path, server.url, redact=bomb.model_dump())
    with logged.gateway as gateway:
        before = peak_bytes(gateway.process.pid)
        counter = 'rft_gateway_log_records_total{model="m",namespace="team",result="TooLarge"}'
        for number, size in enumerate((20, 2000, 200_000), start=1):
            body = {"model": "m", "prompt": "x" * size, "max_tokens": 1}
            assert gateway.post("/v1/completions", body).is_success
            wait_until(lambda number=number: gateway.metrics().get(counter) == number)
            assert peak_bytes(gateway.process.pid) - before < 250 * MIB
    assert records(logged.logs) == []


def test_a_stream_that_is_too_large_for_the_reader_is_counted(tmp_path):
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "x" * (MIB // 2)}}],
    }
    last = {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    total = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9}}
    events = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*[chunk] * 18, last, total])

    def stream(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        connection.sendall(head + events + b"data: [DONE]\n\n")

    with raw_server(stream) as url:
        logged = Logged(tmp_path, url)
        with logged.gateway as gateway:
            assert gateway.post("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "stream": True}).is_success
            assert gateway.metrics()['rft_gateway_log_records_total{model="m",namespace="team",result="TooLarge"}'] == 1
    assert records(logged.logs) == []


def test_a_spool_belongs_to_one_gateway(logged):
    code, log = logged.gateway.run()
    assert code == ExitCode.CONFIGURATION_INVALID
    assert f"{logged.spool}: another gateway uses this spool" in log


def test_logs_need_a_spool(tmp_path, server):
    logs = ConversationLogs(uri=str(tmp_path / "logs"))
    code, log = Gateway(tmp_path, [route("m", server.url, logs=logs)]).run()
    assert code == ExitCode.CONFIGURATION_INVALID
    assert "--spool: name a folder" in log


def test_a_pattern_that_is_none_is_refused(tmp_path, server):
    logs = ConversationLogs(uri="/logs", redact=Redaction(patterns=[RedactionPattern(pattern="(")]))
    code, log = Gateway(tmp_path, [route("m", server.url, logs=logs)], "--spool", str(tmp_path / "spool")).run()
    assert code == ExitCode.CONFIGURATION_INVALID
    assert "redact.patterns: (: is not a regular expression that RE2 knows" in log


def test_a_broken_spool_is_refused_with_its_name(tmp_path, server):
    logged = Logged(tmp_path, server.url)
    segment = logged.spool / "0123" / "20260101T000000000Z_00.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text(json.dumps({}) + "\n")
    code, log = logged.gateway.run()
    assert code == ExitCode.CONFIGURATION_INVALID
    assert f"{segment.parent / 'destination.json'}: " in log
    assert "move" in log
