"""Measure what the gateway costs, with keys, limits and the ledger on; print a Markdown table.

Run: .venv/bin/python bench/gateway.py [--seconds 4] [--rounds 3] (six minutes)
The sides alternate within one run. What the gateway computes for a request does not depend on what else the machine
does, the rest does. The gateway has a core of its own; the load and a stand-in that writes vLLM's bytes
share another one. `--address NAME=URL` adds a side: another door that is running already, before a server at
http://127.0.0.1:STAND_IN_PORT (see --port) that serves the model `model`.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import uvloop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from gateway_machine import pin, wait_for  # noqa: E402
from support.gateway import Gateway, route  # noqa: E402

from rft_api.gateway_key import Limits  # noqa: E402
from rft_api.ports import free_port  # noqa: E402

MODEL = "model"
PROMPT = "Text: Ann paid 17 dollars for the bicycle that she had seen in the shop at the corner a week before. " * 4
PACED = 300
"""Requests a second of the case that shows what a request waits when nobody is at the limit."""
CASES = [
    ("short answers", {"max_tokens": 8}, (1, 16, 64, 512), None),
    (f"short answers, {PACED} requests/s", {"max_tokens": 8}, (16,), PACED),
    ("streams of 100 tokens", {"max_tokens": 100, "stream": True}, (1, 16, 64), None),
    ("streams of 500 tokens", {"max_tokens": 500, "stream": True}, (16,), None),
]
LIMITS = Limits(
    requests_per_minute=10**9, tokens_per_minute=10**12, tokens_per_day=10**14, tokens_per_month=10**14,
    parallel_requests=10**6,
)  # fmt: skip


class Client(asyncio.Protocol):
    """A connection that sends the same request again and again: as fast as it is answered, or at fixed times.

    A request that was sent late, because the one before it took long, counts from the time at which it was due.
    """

    def __init__(self, request, seconds, interval, first):
        self.request = request
        self.interval = interval
        self.due = time.perf_counter() + first
        self.deadline = time.perf_counter() + seconds
        self.latencies = []
        self.failures = 0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.send_next()

    def send_next(self):
        wait = self.due - time.perf_counter() if self.interval else 0
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self.send)
        else:
            self.send()

    def send(self):
        self.began = self.due if self.interval else time.perf_counter()
        self.due += self.interval
        self.received = bytearray()
        self.size = None
        self.transport.write(self.request)

    def data_received(self, data):
        self.received += data
        if self.size is None:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.received[:end]).lower()
            place = head.find(b"content-length: ")
            self.size = end + 4 + int(head[place + 16 :].split(b"\r\n")[0]) if place >= 0 else -1
            self.failures += b" 200 " not in head[:20]
        if self.received.endswith(b"0\r\n\r\n") if self.size < 0 else len(self.received) >= self.size:
            now = time.perf_counter()
            self.latencies.append(now - self.began)
            if now > self.deadline:
                self.transport.close()
            else:
                self.send_next()

    def connection_lost(self, error):
        if not self.ended.done():
            self.ended.set_result(None)


async def load(address, request, clients, seconds, rate):
    host, port = address.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    interval = clients / rate if rate else 0
    protocols = [Client(request, seconds, interval, interval * number / clients) for number in range(clients)]
    began = time.perf_counter()
    for protocol in protocols:
        await loop.create_connection(lambda protocol=protocol: protocol, host, int(port))
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    latencies = sorted(latency for protocol in protocols for latency in protocol.latencies)
    return {
        "requests": len(latencies),
        "rate": len(latencies) / (time.perf_counter() - began),
        "p50": statistics.median(latencies) * 1e3,
        "p99": latencies[int(len(latencies) * 0.99)] * 1e3,
        "failures": sum(protocol.failures for protocol in protocols),
    }


def request_bytes(address, token, fields):
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], **fields}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.removeprefix('http://')}\r\n"
        f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def measure(sides, rounds, seconds):
    for name, fields, counts, pace in CASES:
        print(f"\n| {name} | clients | requests/s | p50 ms | p99 ms | processor ms/request |", flush=True)
        print("|---|---|---|---|---|---|", flush=True)
        for clients in counts:
            results = {side: [] for side in sides}
            for _ in range(rounds):
                for side, (address, token, process) in sides.items():
                    request = request_bytes(address, token, fields)
                    before = processor_seconds(process)
                    result = uvloop.run(load(address, request, clients, seconds, pace))
                    spent = processor_seconds(process) - before
                    results[side].append({**result, "processor": spent * 1e3 / result["requests"]})
            for side, values in results.items():
                rate, p50, p99 = (statistics.median(each[key] for each in values) for key in ("rate", "p50", "p99"))
                failures = sum(each["failures"] for each in values)
                note = f" ({failures} failures)" if failures else ""
                processor = statistics.median(each["processor"] for each in values)
                spent = f"{processor:.2f}" if processor else ""
                print(f"| {side}{note} | {clients} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {spent} |", flush=True)


def processor_seconds(process):
    """Return the time that a process has computed; 0 for a side whose process is not this bench's."""
    return sum(process.cpu_times()[:2]) if process else 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=0, help="of the stand-in")
    parser.add_argument("--address", action="append", default=[], metavar="NAME=URL")
    options = parser.parse_args()
    first, second = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {first})
    port = options.port or free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "support.vllm_bytes", "--port", str(port)]
    stand_in = subprocess.Popen(command, env=environment)
    try:
        server = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryDirectory() as folder:
            files = Gateway(Path(folder), [route(MODEL, server)])
            token = files.add_key("limited", limits=LIMITS)
            with files as gateway:
                pin(gateway.process.pid, second)
                wait_for(server)
                others = dict(each.split("=", 1) for each in options.address)
                for url in others.values():
                    wait_for(url)
                process = psutil.Process(gateway.process.pid)
                sides = {"direct": (server, token, None), "gateway": (gateway.url, token, process)}
                sides |= {name: (url, token, None) for name, url in others.items()}
                measure(sides, options.rounds, options.seconds)
                memory = psutil.Process(gateway.process.pid).memory_info().rss / 1e6
                print(f"\nThe gateway has {memory:.0f} MB, and {len(gateway.entries()):,} entries in its ledger.")
    finally:
        stand_in.kill()
        stand_in.wait()


if __name__ == "__main__":
    main()
