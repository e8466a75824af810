"""Measure what one namespace's flood of requests does to the latency of another one's; print a Markdown table.

Run, as root: .venv/bin/python bench/gateway_flood.py [--seconds 8] [--rounds 3] [--folder /dev/shm] (six minutes)
A client of one namespace asks steadily for short answers, through the gateway and also directly at its server, which
shows what the load on the machine does. Meanwhile clients of another namespace flood the gateway. The floods, and
nothing as one of them, follow each other in every round, and the table has the medians of the rounds. The gateway has
a core of its own. All else shares another one, on which the steady client and its server run before the flood. Where
other programs run, `setsid sh -c 'echo -20 > /proc/self/autogroup; exec .venv/bin/python bench/gateway_flood.py'` puts
the gateway before them; the niceness of a process alone does not where Linux groups processes by sessions.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import httpx
import uvloop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from gateway_machine import pin, wait_for  # noqa: E402
from support.gateway import Gateway, route  # noqa: E402

from rft_api.gateway_key import Limits, make_token  # noqa: E402
from rft_api.ports import free_port  # noqa: E402

MODEL = "model"
FLOODING = "flood"
"""The namespace whose clients flood the gateway."""
PATH = "/v1/chat/completions"
PROMPT = "Text: Ann paid 17 dollars for the bicycle that she had seen in the shop at the corner a week before."
RATE = 50.0
"""Requests a second of the client whose latency is measured, and as many directly at its server."""
PERCENTS = (50, 95, 99)
BEGINNING_SECONDS = 1.0
"""Time for which a flood goes on before the measurement, and after it."""
MEBIBYTE = 1 << 20
SLOW_SECONDS = 1.0
"""Time between two bytes of a slow body."""


def chat(text=PROMPT, **fields):
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}).encode()


class Flood:
    """Clients that ask all the time, each for the next answer when it has one.

    Args:
        clients: their number.
        body: of each request.
        key: the key that they show: limited, unlimited or wrong.
        is_slow: whether they send a byte a second of the body.
    """

    def __init__(self, clients, body, key="unlimited", is_slow=False):
        self.clients = clients
        self.key = key
        self.body = body
        self.is_slow = is_slow

    def run(self, url, token, cores, seconds, results):
        """Flood for some seconds. Put something into a queue before, and the numbers of answers by status after it."""
        os.sched_setaffinity(0, cores)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        results.put("begins")
        results.put(uvloop.run(self._flood(url, token, seconds)))

    async def _flood(self, url, token, seconds):
        counts = Counter()
        clients = [asyncio.create_task(self._client(url, token, counts)) for _ in range(self.clients)]
        await asyncio.wait(clients, timeout=seconds)
        for client in clients:
            client.cancel()
        return counts

    async def _client(self, url, token, counts):
        host, port = url.removeprefix("http://").split(":")
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(self.body)}\r\n\r\n"
        ).encode()
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port), limit=MEBIBYTE)
                while True:
                    writer.write(head)
                    await self._send_body(writer)
                    counts[await _read_answer(reader)] += 1
            except (OSError, asyncio.IncompleteReadError):
                counts["broken off"] += 1  # the gateway closes connections whose bodies it has refused

    async def _send_body(self, writer):
        if self.is_slow:
            await asyncio.sleep(random.uniform(0.0, SLOW_SECONDS))
            for byte in self.body:
                writer.write(bytes([byte]))
                await asyncio.sleep(SLOW_SECONDS)
        else:
            writer.write(self.body)
            await writer.drain()


async def _read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, rest = head.partition(b"content-length: ")
    if found:
        await reader.readexactly(int(rest.split(b"\r\n")[0]))
    else:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    return int(head.split()[1])


SHORT = chat(max_tokens=8)
FLOODS = {
    "nothing": None,
    "64 clients above the limit of their key": Flood(64, SHORT, "limited"),
    "64 clients with wrong keys": Flood(64, SHORT, "wrong"),
    "16 clients without a limit": Flood(16, SHORT),
    "64 clients without a limit": Flood(64, SHORT),
    "256 clients without a limit": Flood(256, SHORT),
    "64 clients with streams of 100 tokens": Flood(64, chat(max_tokens=100, stream=True)),
    "8 clients with bodies of 8 MiB": Flood(8, chat("a" * 8 * MEBIBYTE, max_tokens=8)),
    "8 clients with bodies of 1,900,000 numbers": Flood(8, chat(max_tokens=8, numbers=[0] * 1_900_000)),
    "1,000 clients with slow bodies": Flood(1000, SHORT, is_slow=True),
}


async def ask_steadily(url, token, seconds):
    """Return the latencies, in seconds, of requests that are sent at fixed times, whether or not others are open."""
    latencies = []
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}

    async def ask(due):
        async with session.post(f"{url}{PATH}", data=SHORT, headers=headers) as answer:
            await answer.read()
            assert answer.status == httpx.codes.OK, answer.status
        latencies.append(time.perf_counter() - due)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session, asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(int(seconds * RATE)):
            due = began + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(due))
    return latencies


async def ask_both(gateway, server, seconds):
    """Return the percentiles of the latencies in milliseconds, through the gateway and directly."""
    latencies = await asyncio.gather(
        ask_steadily(gateway.url, gateway.token, seconds), ask_steadily(server, gateway.token, seconds)
    )
    return [percentiles(each) for each in latencies]


def percentiles(latencies):
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return [cuts[percent - 1] * 1e3 for percent in PERCENTS]


def measure(flood, gateway, server, tokens, seconds, cores):
    """Return the percentiles under a flood, and how it was answered."""
    if flood is None:
        return uvloop.run(ask_both(gateway, server, seconds)), Counter()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    flooding = seconds + 2 * BEGINNING_SECONDS
    process = context.Process(target=flood.run, args=(gateway.url, tokens[flood.key], cores, flooding, results))
    process.start()
    results.get()
    time.sleep(BEGINNING_SECONDS)
    figures = uvloop.run(ask_both(gateway, server, seconds))
    counts = results.get()
    process.join()
    return figures, counts


def show(name, figures, counts, seconds, undisturbed):
    through, direct = (
        [statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*figures, strict=True)
    )
    ratios = " / ".join(f"{value / base:.1f}" for value, base in zip(through, undisturbed or through, strict=True))
    answers = ", ".join(f"{count / seconds:,.0f} × {status}" for status, count in sorted(counts.items(), key=str))
    cells = [" / ".join(f"{value:.1f}" for value in side) for side in (through, direct)]
    print(f"| {name} | {answers} | {cells[0]} | {ratios} | {cells[1]} |", flush=True)
    return through


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="for the ledger; /dev/shm leaves the disk out of the measurement")
    parser.add_argument("--flood", action="append", metavar="PART OF A NAME", help="only these; by default, all")
    options = parser.parse_args()
    first, second = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {first})
    floods = {
        name: flood
        for name, flood in FLOODS.items()
        if flood is None or not options.flood or any(part in name for part in options.flood)
    }
    servers = [start_server() for _ in range(2)]
    try:
        (_, server), (_, flooded_server) = servers
        routes = [route(MODEL, server), route(MODEL, flooded_server, namespace=FLOODING)]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            files = Gateway(Path(folder), routes)
            tokens = {
                "wrong": make_token(),
                "unlimited": files.add_key("unlimited", namespace=FLOODING),
                "limited": files.add_key("limited", namespace=FLOODING, limits=Limits(requests_per_minute=60)),
            }
            with files as gateway:
                pin(gateway.process.pid, second)
                prefer(os.getpid())
                prefer(servers[0][0].pid)
                for _, url in servers:
                    wait_for(url)
                figures, counts = {name: [] for name in floods}, {name: Counter() for name in floods}
                uvloop.run(ask_both(gateway, server, options.seconds))
                for _ in range(options.rounds):
                    for name, flood in floods.items():
                        figure, count = measure(flood, gateway, server, tokens, options.seconds, {first})
                        figures[name].append(figure)
                        counts[name] += count
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()
    print("| flood | its answers a second, by status | p50 / p95 / p99, ms | times as long | directly, ms |")
    print("|---|---|---|---|---|")
    undisturbed = None
    for name in floods:
        seconds = options.rounds * (options.seconds + 2 * BEGINNING_SECONDS)
        through = show(name, figures[name], counts[name], seconds, undisturbed)
        undisturbed = undisturbed or through


def prefer(process):
    """Let a process run at once when it has something to do; without this, a flood on the same core holds it up.

    Only root may. The process needs little of the core.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(1))


def start_server():
    port = free_port()
    command = [sys.executable, "-m", "support.vllm_bytes", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)  # about clients that have left
    return process, f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    main()
