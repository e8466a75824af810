"""Answers: clients have a limited time to take them, and bodies and answers take a limited memory of each namespace."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest
from aiohttp import web
from support.patience import PATIENCE_SECONDS

from rft_api.foreign import server_limits
from rft_gateway.answers import ClientLeft, give, in_time
from rft_gateway.bodies import Bodies
from rft_gateway.errors import ApiError

MIB = 1 << 20


async def give_whole(request: web.BaseRequest) -> web.StreamResponse:
    response = web.Response(body=bytes(64 * MIB))
    await give(request, response)
    return response


async def give_parts(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await in_time(request, response.prepare(request))
    for _ in range(1024):
        await in_time(request, response.write(bytes(MIB // 16)))
    await in_time(request, response.write_eof(b"end"))
    return response


@pytest.mark.parametrize("answer", [give_whole, give_parts])
def test_an_answer_that_its_client_does_not_take_is_given_up(monkeypatch, answer):
    monkeypatch.setattr(server_limits, "ANSWER_SECONDS", 0.1)

    async def scenario() -> None:
        left: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            response: web.StreamResponse = web.Response()
            try:
                response = await answer(request)
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


def test_a_client_that_is_slow_gets_all_of_its_answer():
    async def scenario() -> bytes:
        runner = web.ServerRunner(web.Server(give_parts), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
        received = bytearray()
        while data := await reader.read(MIB):
            received += data
            await asyncio.sleep(0.001)  # the server waits meanwhile, because its buffers are full
        writer.close()
        await runner.cleanup()
        return bytes(received)

    assert asyncio.run(scenario()).partition(b"\r\n\r\n")[2] == bytes(64 * MIB) + b"end"


def test_only_what_waits_for_its_client_has_a_timer(monkeypatch):
    timers = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: timers.append(seconds) or timeout(seconds))

    async def wait(results: list[object], future: asyncio.Future[int] | None = None) -> None:
        results.append(1 if future is None else await future)

    async def scenario() -> list[object]:
        results: list[object] = []
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await in_time(request, wait(results))
        assert not timers
        asyncio.get_running_loop().call_later(0.01, future.set_result, 2)
        await in_time(request, wait(results, future))
        return results

    request = cast("web.BaseRequest", None)
    assert asyncio.run(scenario()) == [1, 2]
    assert timers == [server_limits.ANSWER_SECONDS]


def test_a_request_that_is_cancelled_while_its_client_takes_the_answer_ends_what_it_does():
    ends = []

    async def work() -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            ends.append("ended")

    async def scenario() -> None:
        task = asyncio.create_task(in_time(cast("web.BaseRequest", None), work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert ends == ["ended"]


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
