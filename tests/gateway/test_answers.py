"""Answers: clients have a limited time to take them, and bodies and answers take a limited memory of each namespace."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from support.patience import PATIENCE_SECONDS

from rft_api.foreign import server_limits
from rft_gateway.answers import ClientLeft, give
from rft_gateway.bodies import Bodies
from rft_gateway.errors import ApiError

MIB = 1 << 20


def test_an_answer_that_its_client_does_not_take_is_given_up(monkeypatch):
    monkeypatch.setattr(server_limits, "ANSWER_SECONDS", 0.1)

    async def scenario() -> None:
        left: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            response = web.Response(body=bytes(64 * MIB))
            try:
                await give(request, response)
            except ClientLeft:
                left.set_result(request.transport is None or request.transport.is_closing())
            return response

        runner = web.ServerRunner(web.Server(respond), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with socket.create_connection(runner.addresses[0][:2]) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await left
        await runner.cleanup()

    asyncio.run(scenario())


def test_a_namespace_leaves_room_for_the_bodies_and_answers_of_others():
    bodies = Bodies()
    half = server_limits.BODIES_BYTES // 2
    with bodies.held("a") as one, bodies.held("a") as two, bodies.held("b") as other:
        one.take(half - MIB)
        two.take(MIB)
        with pytest.raises(ApiError) as error:
            two.take(1)
        assert (error.value.status, error.value.code) == (503, "overloaded")
        other.take(half // 2)
        with pytest.raises(ApiError):
            other.take(1)
    with bodies.held("c") as body:
        body.take(half)
