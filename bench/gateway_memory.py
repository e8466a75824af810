"""Measure the memory of the gateway with many open streams, and under load for a long time; print a Markdown table.

Run: .venv/bin/python bench/gateway_memory.py [--streams 5000] [--minutes 30]
First so many streams are open at the same time: each has got its first token, and waits for the second. Then they end.
After that, 32 clients ask again and again, answers and streams in turn, and the memory is read every minute.
"""

import argparse
import asyncio
import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.gateway import Gateway, route  # noqa: E402
from support.vllm_bytes import VllmBytes  # noqa: E402

MODEL = "model"
PATH = "/v1/chat/completions"
CLIENTS = 32
OPENING = 100
"""Streams that are opened at the same time."""
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}]}


def megabytes(gateway):
    return psutil.Process(gateway.process.pid).memory_info().rss / 1e6


async def open_streams(gateway, server, count):
    """Return the memory with so many open streams, and after their end."""
    server.behaviour.pause_at = 1
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps({**BODY, "stream": True, "max_tokens": 2}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {gateway.token}\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    opening = asyncio.Semaphore(OPENING)

    async def begin():
        async with opening:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            received = b""
            while b"w0 " not in received:
                received += await reader.read(1 << 16)
            return reader, writer, received

    streams = await asyncio.gather(*(begin() for _ in range(count)))
    memory = megabytes(gateway)
    server.behaviour.pause_at = None
    server.behaviour.resume.set()

    async def end(reader, writer, received):
        while not received.endswith(b"0\r\n\r\n"):
            received += await reader.read(1 << 16)
        writer.close()
        assert b"data: [DONE]" in received, received

    await asyncio.gather(*(end(*stream) for stream in streams))
    return memory, megabytes(gateway)


async def load(gateway, minutes):
    """Ask for so many minutes; yield the requests and the memory after each."""
    count = itertools.count()
    deadline = time.monotonic() + 60 * minutes
    headers = {"authorization": f"Bearer {gateway.token}"}

    async def client(session):
        while time.monotonic() < deadline:
            number = next(count)
            body = {**BODY, "max_tokens": 1 + number % 40, "stream": number % 2 == 0}
            async with session.post(f"{gateway.url}{PATH}", json=body, headers=headers) as answer:
                await answer.read()
                assert answer.ok, answer.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS), trust_env=False) as session:
        clients = [asyncio.create_task(client(session)) for _ in range(CLIENTS)]
        for minute in range(1, minutes + 1):
            await asyncio.sleep(deadline - 60 * (minutes - minute) - time.monotonic())
            requests = next(count)
            print(f"| {minute} minutes of load, {requests:,} requests | {megabytes(gateway):.0f} |", flush=True)
        await asyncio.gather(*clients)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--minutes", type=int, default=30)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, VllmBytes(MODEL) as server:
        server.keeps_requests = False
        with Gateway(Path(folder), [route(MODEL, server.url)]) as gateway:
            print("| | memory of the gateway, MB |\n|---|---|", flush=True)
            gateway.post(PATH, {**BODY, "max_tokens": 1})
            print(f"| after the first request | {megabytes(gateway):.0f} |", flush=True)
            if options.streams:
                memory, after = asyncio.run(open_streams(gateway, server, options.streams))
                print(f"| {options.streams:,} open streams | {memory:.0f} |", flush=True)
                print(f"| after their end | {after:.0f} |", flush=True)
            if options.minutes:
                asyncio.run(load(gateway, options.minutes))
            assert gateway.stop() == 0
            print(f"| entries of the ledger: {len(gateway.entries()):,} | |")


if __name__ == "__main__":
    main()
