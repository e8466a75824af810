"""The HTTP server takes bodies of any size, bounds what clients cost, and ends within the time that it has for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from support.patience import PATIENCE_SECONDS

from rft_api.foreign import server_limits
from rft_gateway import http_server

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
UNFINISHED = b"GET / HTTP/1.1\r\nhost: x\r\na: "


class CountingServer(http_server.HttpServer):
    """Counts the pieces of requests without a key that have come."""

    held = 0

    def hold(self, connection: Any, size: int) -> None:
        self.held += 1
        super().hold(connection, size)


@asynccontextmanager
async def serving(
    respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **settings: Any
) -> AsyncIterator[Callable[[bytes], Awaitable[Stream]]]:
    """Serve, and yield what connects, and returns when the server has the bytes that it has sent."""

    async def connect(data: bytes) -> Stream:
        reader, writer = await asyncio.open_connection(*address[:2])
        writers.append(writer)
        before = server.held
        writer.write(data)
        while data and server.held == before:
            await asyncio.sleep(0)
        return reader, writer

    writers: list[asyncio.StreamWriter] = []
    server = CountingServer(respond, handler_cancellation=True, **settings)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address: Any = runner.addresses[0]
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield connect
    finally:
        for writer in writers:
            writer.close()
        await runner.cleanup()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an answer that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def read_end(reader: asyncio.StreamReader) -> bytes:
    """Read until the server ends the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def respond_ok(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="ok")


async def respond_to_key(request: web.BaseRequest) -> web.StreamResponse:
    """Answer what has a key when it is told to, and the rest never."""
    if "authorization" in request.headers:
        http_server.note_key(request)
        return web.Response(text=await request.text())
    await asyncio.Event().wait()
    raise AssertionError


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


def test_connections_without_a_head_in_time_are_closed_and_others_are_kept(monkeypatch):
    monkeypatch.setattr(server_limits, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_server, "LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        closed = asyncio.Event()

        async def respond(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == "/slow":
                await closed.wait()
            return web.Response(text="ok")

        async with serving(respond) as connect:
            kept, again = await connect(GET), await connect(GET)
            for reader, _ in (kept, again):
                assert await read_answer(reader) == (200, b"ok")
            slow, _ = await connect(GET.replace(b"/", b"/slow", 1))
            again[1].write(UNFINISHED)
            for reader, _ in (await connect(b""), await connect(UNFINISHED), again):
                assert await read_end(reader) == b""
            closed.set()
            assert await read_answer(slow) == (200, b"ok")
            kept[1].write(GET)
            assert await read_answer(kept[0]) == (200, b"ok")

    asyncio.run(scenario())


def test_requests_without_a_key_take_a_bounded_memory_and_the_oldest_are_closed(monkeypatch):
    monkeypatch.setattr(server_limits, "UNKNOWN_BYTES", 10_000)

    async def scenario() -> None:
        async with serving(respond_to_key) as connect:
            body = bytes(9_000)
            post = f"POST / HTTP/1.1\r\nhost: x\r\nauthorization: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            with_key, writer = await connect(post)
            unfinished, _ = await connect(UNFINISHED + b"a" * 4_000)
            complete, _ = await connect(UNFINISHED + b"a" * 4_000 + b"\r\n\r\n")
            newest, _ = await connect(UNFINISHED + b"a" * 4_000)
            assert await read_end(unfinished) == b""
            await connect(UNFINISHED + b"a" * 4_000)
            assert await read_end(complete) == b""
            writer.write(body)
            assert await read_answer(with_key) == (200, body)
            assert not newest.at_eof()

    asyncio.run(scenario())


def test_of_too_many_connections_that_wait_the_longest_waiting_are_closed(monkeypatch):
    monkeypatch.setattr(server_limits, "WAITING_CONNECTIONS", 2)
    monkeypatch.setattr(http_server, "LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        async with serving(respond_ok) as connect:
            streams = []
            for _ in range(4):
                streams.append(await connect(GET))
                assert await read_answer(streams[-1][0]) == (200, b"ok")
            for reader, _ in streams[:2]:
                assert await read_end(reader) == b""
            for reader, writer in streams[2:]:
                writer.write(GET)
                assert await read_answer(reader) == (200, b"ok")

    asyncio.run(scenario())


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
SMALL_CHUNK = b"1\r\nx\r\n"


def test_a_body_of_small_chunks_without_end_is_refused_and_its_connection_is_closed():
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return web.Response(text=str(len(await request.content.read())))
        except http_server.SmallChunksError as error:
            return web.Response(status=400, text=str(error))

    async def scenario() -> None:
        async with serving(respond) as connect:
            for first in (b"", SMALL_CHUNK * 100):
                reader, writer = await connect(CHUNKED + first)
                writer.write(SMALL_CHUNK * 2 * server_limits.SMALL_CHUNKS)
                message = b"The body has more than 4,096 chunks of fewer than 64 bytes. Send larger ones."
                assert await read_answer(reader) == (400, message)
                assert await read_end(reader) == b""
            sizes = {1: server_limits.SMALL_CHUNKS, server_limits.CHUNK_BYTES: 3 * server_limits.SMALL_CHUNKS}
            for size, count in sizes.items():
                reader, writer = await connect(CHUNKED)
                writer.write(b"%x\r\n%b\r\n" % (size, bytes(size)) * count + b"0\r\n\r\n")
                assert await read_answer(reader) == (200, str(size * count).encode())

    asyncio.run(scenario())


def test_after_a_refusal_large_chunks_are_read_on_and_small_ones_are_not():
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=401)

    async def scenario() -> None:
        async with serving(refuse, lingering_time=2 * PATIENCE_SECONDS) as connect:
            small, writer = await connect(CHUNKED + SMALL_CHUNK)
            assert await read_answer(small) == (401, b"")
            writer.write(SMALL_CHUNK * 300)
            assert await read_end(small) == b""
            large, writer = await connect(CHUNKED + SMALL_CHUNK)
            assert await read_answer(large) == (401, b"")
            writer.write(b"2000\r\n%b\r\n" % bytes(0x2000) * 400 + b"0\r\n\r\n" + GET)
            assert await read_answer(large) == (401, b"")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"\x16\x03\x01 secret\r\n\r\n", 400, "This is no request of HTTP, or a part of its head is too long."),
        (
            b"GET / HTTP/1.1\r\nsecret : x\r\n\r\n",
            400,
            "This is no request of HTTP, or a part of its head is too long.",
        ),
        (UNFINISHED + (b"secret" * 1_000 + b"\r\na: ") * 12, 431, "The head of the request is larger than 64 KiB."),
        (GET, 500, "The gateway had an error while processing your request."),
    ],
)
def test_errors_of_http_have_the_form_of_the_api_and_no_bytes_of_the_client(data, status, message):
    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        raise ValueError("secret")

    async def scenario() -> None:
        async with serving(fail) as connect:
            reader, _ = await connect(data)
            answered, body = await read_answer(reader)
            assert (answered, json.loads(body)["error"]["message"]) == (status, message)
            assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
            assert b"secret" not in body

    asyncio.run(scenario())
