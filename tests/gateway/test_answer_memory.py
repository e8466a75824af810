"""Answers that nobody reads: the gateway holds their bytes, which it counts, and not what it has made of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.gateway import Gateway, ledger_rows, route
from support.gateway_door import door_in_process
from support.patience import PATIENCE_SECONDS
from support.raw_server import raw_server

from rft_api.conversation_logs import ConversationLogs
from rft_api.foreign import server_limits
from rft_api.gateway_key import Limits
from rft_gateway.keys import KeyFolder, KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.routes import RouteFile, RouteTable

CLIENTS = 3
LISTS = 100_000
"""Lists in the answer, and in the request: objects that Python's garbage collector counts."""
ANSWER = json.dumps({"choices": [["x" * 100]] * LISTS, "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
"""More bytes than the buffers of a connection take."""


def answer(connection: socket.socket) -> None:
    """Answers with it, whatever was asked."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n"
    connection.sendall(head.encode() + ANSWER)


@contextlib.asynccontextmanager
async def door(files: Gateway) -> AsyncIterator[str]:
    """Opens a door in this process, with the files of a gateway; yields its address."""
    routes, keys = RouteTable(), KeyRing()
    RouteFile(files.folder / "routes.json", routes).load()
    KeyFolder(files.folder / "keys", keys)
    ledger = Ledger(str(files.ledger_file))
    await ledger.prepare()
    try:
        async with door_in_process(routes, keys, ledger) as (url, _):
            yield url
    finally:
        await ledger.close()


async def ask(url: str, token: str) -> socket.socket:
    """Asks for an answer, and returns the connection, from which only its beginning was read."""
    body = json.dumps({"model": "m", "messages": [], "metadata": {}, "more": [[1]] * LISTS}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.setblocking(False)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert (await loop.sock_recv(client, 15)).startswith(b"HTTP/1.1 200 OK")
    return client


def objects() -> int:
    """Number of objects that are held, of those that hold others."""
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("is_logged", [False, True])
def test_what_is_parsed_is_not_held_while_a_client_takes_its_answer(tmp_path: Path, is_logged):
    logs = ConversationLogs(uri=str(tmp_path / "logs")) if is_logged else None

    async def scenario(files: Gateway) -> None:
        async with door(files) as url:
            before = objects()
            clients = [await ask(url, files.token) for _ in range(CLIENTS)]
            assert [row["completion_tokens"] for row in ledger_rows(files.ledger_file)] == [4] * CLIENTS
            assert objects() < before + LISTS // 2
            for client in clients:
                client.close()

    with raw_server(answer) as url:
        asyncio.run(scenario(Gateway(tmp_path, [route("m", url, logs=logs)])))


def test_an_answer_for_which_there_is_no_memory_is_no_fault_of_its_server_and_counts_for_the_limits(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(server_limits, "BODIES_BYTES", len(ANSWER))
    question = {"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}

    async def scenario(files: Gateway) -> list[tuple[int, str]]:
        headers = {"authorization": f"Bearer {files.add_key('limited', limits=Limits(tokens_per_day=1500))}"}
        async with door(files) as url, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answers = [await client.post(f"{url}/v1/chat/completions", json=question, headers=headers) for _ in "ab"]
        return [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]

    with raw_server(answer) as url:
        files = Gateway(tmp_path, [route("m", url)])
        assert asyncio.run(scenario(files)) == [(503, "overloaded"), (429, "rate_limit_exceeded")]
    (row,) = ledger_rows(files.ledger_file)
    assert (row["outcome"], row["status"], row["completion_tokens"]) == ("GatewayFailed", 503, 0)


@pytest.mark.parametrize("is_begun", [False, True])
def test_events_whose_end_has_not_come_are_counted(tmp_path: Path, monkeypatch, is_begun):
    monkeypatch.setattr(server_limits, "BODIES_BYTES", 1 << 20)
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    question = {"model": "m", "stream": True, "messages": []}

    def stream(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        connection.sendall(head + chunk * is_begun + b"data: " + b"x" * (900 << 10))

    async def scenario(files: Gateway) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {files.token}"}
        async with door(files) as url, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = await client.post(f"{url}/v1/chat/completions", json=question, headers=headers)
        return answer.status_code, answer.content

    with raw_server(stream) as url:
        files = Gateway(tmp_path, [route("m", url)])
        status, content = asyncio.run(scenario(files))
    assert status == (200 if is_begun else 503)
    assert content.startswith(chunk * is_begun)
    assert json.loads(content.removeprefix(chunk).removeprefix(b"data: "))["error"]["code"] == "overloaded"
    (row,) = ledger_rows(files.ledger_file)
    assert (row["outcome"], row["completion_tokens"]) == ("GatewayFailed", int(is_begun))


def test_the_ledger_gets_some_of_the_requests_that_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rft_gateway.records._REFUSED_ENTRIES", 3)
    question = {"model": "m", "messages": []}

    async def scenario(files: Gateway) -> list[int]:
        headers = {"authorization": f"Bearer {files.token}"}
        async with door(files) as url, httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answers = [await client.post(f"{url}/v1/chat/completions", json=question, headers=headers) for _ in "abcde"]
        return [answer.status_code for answer in answers]

    files = Gateway(tmp_path, [route("m")])
    assert asyncio.run(scenario(files)) == [503] * 5
    assert [row["outcome"] for row in ledger_rows(files.ledger_file)] == ["Refused"] * 3
