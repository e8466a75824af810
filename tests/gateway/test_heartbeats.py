"""Streams that wait get signs of life, also while their server has not loaded the adapter, or takes no connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from support.gateway import NAMESPACE, route
from support.gateway_door import door_in_process
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_key import Key, make_token, token_digest
from rft_gateway import proxy
from rft_gateway.keys import KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.routes import EndpointState, RouteTable

STREAMS = 3


@pytest.fixture
def address_that_hangs() -> Iterator[str]:
    """The URL of a server whose backlog is full: connections to it hang, as to a node that has died."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("hangs", [False, True])
def test_all_who_wait_get_signs_of_life(tmp_path, server, address_that_hangs, hangs, monkeypatch):
    """They come more seldom than servers are asked again, as they do with the times of the product."""
    monkeypatch.setattr("rft_gateway.waiting.TICK_SECONDS", 0.02)
    monkeypatch.setattr("rft_gateway.waiting.HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(proxy, "CONNECT_SECONDS", 0.2)
    token, routes, keys = make_token(), RouteTable(), KeyRing()
    keys.replace([Key("key", NAMESPACE, token_digest(token))], [])
    asked = route("adapter", address_that_hangs if hangs else server.url, base="base")
    routes.replace([asked], {(NAMESPACE, "adapter"): EndpointState(True, STREAMS, PATIENCE_SECONDS, pods=1)})
    question = {"model": "adapter", "messages": [{"role": "user", "content": "one"}], "stream": True}

    async def listen(client: httpx.AsyncClient) -> None:
        """Returns after two signs of life."""
        async with client.stream("POST", "/v1/chat/completions", json=question) as answer:
            text = ""
            async for part in answer.aiter_text():
                text += part
                if text.startswith(2 * proxy.HEARTBEAT.decode()):
                    return
        raise AssertionError(text)

    async def scenario() -> None:
        ledger = Ledger(str(tmp_path / "ledger.db"))
        await ledger.prepare()
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                door_in_process(routes, keys, ledger) as (url, _),
                httpx.AsyncClient(
                    base_url=url,
                    headers={"authorization": f"Bearer {token}"},
                    trust_env=False,
                    timeout=PATIENCE_SECONDS,
                ) as client,
            ):
                await asyncio.gather(*(listen(client) for _ in range(STREAMS)))
        finally:
            await ledger.close()

    asyncio.run(scenario())
