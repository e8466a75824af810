"""The beginnings of requests: a namespace with many of them holds up no other one, and all begin."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from support.gateway import Gateway, route
from support.vllm_bytes import VllmBytes

from rft_gateway.starts import Starts

MANY = 200


def test_namespaces_begin_in_turn():
    async def scenario() -> None:
        starts, order = Starts(), []

        async def begin(namespace: str, number: int) -> None:
            await starts.wait(namespace)
            order.append((namespace, number))

        many = [asyncio.create_task(begin("many", number)) for number in range(MANY)]
        left = many.pop(MANY // 2)
        await asyncio.sleep(0)  # all of them wait
        left.cancel()  # its client has left
        few = [asyncio.create_task(begin("few", number)) for number in range(3)]
        await asyncio.gather(*few)
        assert len(order) < 12, order  # of each namespace, about one in a pass
        await asyncio.gather(*many)
        for namespace, numbers in (("few", range(3)), ("many", (n for n in range(MANY) if n != MANY // 2))):
            assert [number for name, number in order if name == namespace] == list(numbers)

    asyncio.run(scenario())


@contextmanager
def connection(gateway: Gateway) -> Iterator[socket.socket]:
    """A connection that the gateway has taken."""
    with gateway.connect() as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n")
        assert b" 200 " in client.recv(1 << 16)
        yield client


def send(client: socket.socket, token: str, number: int) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": str(number)}], "max_tokens": 1}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\n"
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def test_a_request_overtakes_those_of_a_flood(tmp_path):
    with (
        VllmBytes("m") as server,
        Gateway(tmp_path, [route("m", server.url), route("m", server.url, namespace="other")]) as gateway,
        ExitStack() as stack,
    ):
        other = gateway.add_new_key("other", namespace="other")
        clients = [stack.enter_context(connection(gateway)) for _ in range(MANY)]
        gateway.process.send_signal(signal.SIGSTOP)  # so that all requests are there at the same time
        for number, client in enumerate(clients):
            send(client, other if number == MANY // 2 else gateway.token, number)
        gateway.process.send_signal(signal.SIGCONT)
        assert all(b" 200 " in client.recv(1 << 16) for client in clients)
        order = [json.loads(body)["messages"][0]["content"] for body in server.bodies]
        assert order.index(str(MANY // 2)) < MANY // 4, order
