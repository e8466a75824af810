"""Answers of hostile pods end at a limit of bytes, of time and of pieces; those of honest ones are read as they are."""

from __future__ import annotations

import asyncio
import tracemalloc

import httpx
import pytest
from support.hostile_pods import KINDS, handler
from support.patience import PATIENCE_SECONDS
from views import ADAPTER, OWN, pod

from rft_operator.inference_endpoint import probe as endpoint_probe
from rft_operator.inference_endpoint.probe import ask_servers
from rft_operator.pods import probe, transport
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.pods.transport import ANSWER_BYTES, READ_BYTES, PodTransport, parse_answer
from rft_operator.reward_function import probe as reward_probe
from rft_operator.reward_function.probe import ask_readiness
from rft_operator.rft_job import probe as job_probe
from rft_operator.rft_job.probe import ask_progress

PORTS = [
    (job_probe, "PROGRESS_PORT"), (reward_probe, "REWARD_PORT"), (endpoint_probe, "SERVER_PORT"),
    (endpoint_probe, "LOADER_PORT"),
]  # fmt: skip
ENDLESS = {"drip", "silence", "slow_headers"}
"""Kinds that only the deadline ends."""


def ask(question, handle):
    """Asks a pod of this machine that answers with a handler."""

    async def scenario():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(transport=PodTransport()) as client:
            try:
                return await question(PodClient(client, Limits()), port)
            finally:
                server.close()

    async def limited():
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await scenario()

    return asyncio.run(limited())


def says(*pieces):
    """A handler that answers with these pieces and closes the connection."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.close()

    return answer


async def progress(client):
    return await ask_progress(client, [pod(ip="127.0.0.1")])


async def readiness(client):
    return (await ask_readiness(client, [pod(ip="127.0.0.1", ready=False)])).get("pod")


async def adapter(client):
    return (await ask_servers(client, [pod(ip="127.0.0.1")], ADAPTER, was_ready=True))["pod"].adapter


async def listed(client):
    answer = (await ask_servers(client, [pod(ip="127.0.0.1")], OWN, was_ready=True))["pod"]
    return None if answer.problem == "the server does not list x" else answer


async def completion(client):
    """Any body is one, if its status is 200; what counts here is what it costs."""
    await ask_servers(client, [pod(ip="127.0.0.1")], OWN, was_ready=False)


@pytest.mark.parametrize("question", [progress, readiness, adapter, listed, completion])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "news"])
def test_a_hostile_pod_has_no_answer(monkeypatch, kind, question):
    reads = []
    for module, name in ((probe, "ASK_SECONDS"), (endpoint_probe, "ANSWER_SECONDS")):
        monkeypatch.setattr(module, name, 0.5 if kind in ENDLESS else 10 * PATIENCE_SECONDS)
    receive = asyncio.SelectorEventLoop.sock_recv

    async def count(loop, connection, size):
        piece = await receive(loop, connection, size)
        reads.append(len(piece))
        return piece

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_recv", count)

    async def asked(client, port):
        for module, name in PORTS:
            monkeypatch.setattr(module, name, port)
        return await question(client)

    ask(asked, handler(kind))  # what is made once is not counted
    reads.clear()
    tracemalloc.start()
    try:
        assert ask(asked, handler(kind)) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(reads) <= ANSWER_BYTES + READ_BYTES
    assert peak < 2 << 20  # with what the pod sends, which runs in this process


def test_an_answer_in_crumbs_is_parsed_once(monkeypatch):
    """One parse of 64 KiB is cheap; one for each byte of them took a second of the operator's time."""
    parsed = []
    monkeypatch.setattr(transport, "parse_answer", lambda answer: parsed.append(answer) or parse_answer(answer))
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
    answer = ask(lambda client, port: client.get(pod(ip="127.0.0.1"), port, "/"), says(body))
    assert answer.body == b"x" * 10_000
    assert len(parsed) == 1


def test_news_that_are_valid_are_progress(monkeypatch):
    async def question(client, port):
        monkeypatch.setattr(job_probe, "PROGRESS_PORT", port)
        return await ask_progress(client, [pod(ip="127.0.0.1")])

    assert ask(question, handler("news")).phase == "Training"


@pytest.mark.parametrize(
    ("pieces", "status", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], 200, b"{}"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}what follows"], 200, b"{}"),
        ([b"HTTP/1.0 200 OK\r\n\r\n{", b"}"], 200, b"{}"),
        ([b"HTTP/1.1 20", b"0 OK\r\nContent-", b"Length: 2\r\n\r", b"\n{", b"}"], 200, b"{}"),
        ([b"HTTP/1.1 503\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1;x=y\r\n}\r\n0\r\n\r\n"], 503, b"{}"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\nTrailer: x\r\n\r\n"], 200,
         b"0\r\n\r\n"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
    ],
)  # fmt: skip
def test_answers_of_http(pieces, status, body):
    answer = ask(lambda client, port: client.get(pod(ip="127.0.0.1"), port, "/", any_status=True), says(*pieces))
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 999 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    ],
)
def test_what_is_no_answer_of_http(answer):
    assert ask(lambda client, port: client.get(pod(ip="127.0.0.1"), port, "/", any_status=True), says(answer)) is None


def test_what_a_request_says():
    heard = []

    async def hear(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head + await reader.readexactly(12))
        writer.close()

    async def question(client, port):
        with pytest.raises(Exception, match="cannot be asked"):
            await client.post(pod(ip="127.0.0.1"), port, "/v1/completions", {"a": "é"}, 5)

    ask(question, hear)
    lines = heard[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/completions HTTP/1.1"
    assert {"connection: close", "accept-encoding: identity", "content-length: 15"} <= {line.lower() for line in lines}
    assert lines[-1].startswith('{"a": "')
