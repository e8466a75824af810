"""The HTTP server takes bodies of any size, and ends within the time that it has for it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from support.patience import PATIENCE_SECONDS

from rft_gateway import http_server


def test_the_end_of_a_body_is_no_head():
    async def scenario() -> None:
        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text=str(len(await request.content.read())))

        runner = web.ServerRunner(http_server.HttpServer(respond))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address: Any = runner.addresses[0]
        async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as client:
            for size in (1 << 10, 1 << 18, 10 << 20):
                async with client.post(f"http://{address[0]}:{address[1]}/", data=bytes(size)) as answer:
                    assert await answer.text() == str(size)
        await runner.cleanup()

    asyncio.run(scenario())


def test_requests_that_do_not_end_are_cancelled_when_the_time_is_over(monkeypatch):
    waits: list[float] = []

    async def scenario() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        original = web.RequestHandler.shutdown

        async def shutdown(connection: web.RequestHandler, timeout: float | None = None) -> None:
            assert timeout is not None
            waits.append(timeout)
            await original(connection, timeout)

        monkeypatch.setattr(web.RequestHandler, "shutdown", shutdown)
        runner = web.ServerRunner(http_server.HttpServer(respond), shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address: Any = runner.addresses[0]
        _, writer = await asyncio.open_connection(*address[:2])
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await begun.wait()
            await runner.cleanup()
            await cancelled.wait()
        writer.close()

    asyncio.run(scenario())
    assert waits == [0.25]  # twice
