"""Measure the reward server in front of a judge that takes a second: throughput, latency, and memory under load.

Run: .venv/bin/python bench/judge_load.py (four minutes), with --minutes 30 for the memory under a load of 30 minutes
Prints Markdown. The judge is a process on this machine that answers each request after a second, however many arrive
at once. Clients send batches of 64 samples one after the other. All samples are different, so that the server has no
rating in its cache. The ideal number of scores per second is the judge's `limits.concurrency`. Memory is that of the
server and all processes that it starts.
"""

import argparse
import asyncio
import concurrent.futures
import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import orjson
import psutil

from rft_api.reward_protocol import build_sample

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.reward_server import RewardServer

BATCH = 64
SECONDS = 45
# Each load is a number of judge requests at once, and a number of batches in flight.
LOADS = [(16, 1), (16, 4), (64, 1), (64, 4), (256, 8)]
LASTING_LOAD = (64, 4)
SAMPLE_SECONDS = 5
NUMBERS = itertools.count()


async def judge(scope, receive, send):
    """Answer as a chat model that gives everything the same rating after a second (ASGI)."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(1)
    message = {"role": "assistant", "content": '{"reason": "as it is", "score": 4}'}
    usage = {"prompt_tokens": 300, "completion_tokens": 12}
    body = orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_judge():
    """Serve the judge, and print its port."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    Server(uvicorn.Config(judge, port=0, log_level="error", lifespan="off")).run()


class Program:
    """The judge and a reward server in front of it."""

    def __init__(self, folder, concurrency):
        self.judge = subprocess.Popen([sys.executable, __file__, "--judge"], stdout=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{self.judge.stdout.readline().strip()}/v1"
        spec = {
            "timeout": "5m",
            "judge": {
                "template": "Summarization",
                "model": {"url": url, "name": "judge"},
                "limits": {"concurrency": concurrency},
            },
        }
        self.server = RewardServer(Path(folder), spec, token=None).wait_ready()

    def load(self, until):
        """Send batches until a time, and return the seconds of each batch."""
        connection, times = self.server.connect(), []
        while (start := time.perf_counter()) < until:
            connection.request("POST", "/v1/score", orjson.dumps(batch()))
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            assert b'"error"' not in body, body[:500]
            times.append(time.perf_counter() - start)
        return times

    def mebibytes(self):
        """Return the resident memory of the server and its processes."""
        server = psutil.Process(self.server.process.pid)
        return sum(process.memory_info().rss for process in [server, *server.children(recursive=True)]) / 2**20

    def processor_seconds(self):
        """Return the processor time of the server so far."""
        times = psutil.Process(self.server.process.pid).cpu_times()
        return times.user + times.system

    def stop(self):
        self.server.stop()
        self.judge.terminate()
        self.judge.wait()


def batch():
    """Return samples with summaries of about 60 words, which are all different."""
    text = "The committee met again and the report was read aloud to the members who had come. " * 4
    prompt = [{"role": "user", "content": f"Summarize: {text * 3}"}]
    return [build_sample(str(n), prompt, f"Version {n}: {text}", text, {}) for n in itertools.islice(NUMBERS, BATCH)]


def measure(concurrency, clients, seconds, watch=lambda program: lambda: None):
    """Return the seconds of each batch, the seconds of the whole load, and the server's processor seconds.

    `watch` starts to watch the program, and returns a function that stops watching.
    """
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(clients) as threads:
        program = Program(folder, concurrency)
        try:
            stop_watching = watch(program)
            start, processor_start = time.perf_counter(), program.processor_seconds()
            end = start + seconds
            times = [t for client_times in threads.map(program.load, [end] * clients) for t in client_times]
            stop_watching()
            return times, time.perf_counter() - start, program.processor_seconds() - processor_start
        finally:
            program.stop()


def row(concurrency, clients):
    times, seconds, processor_seconds = measure(concurrency, clients, SECONDS)
    rate = BATCH * len(times) / seconds
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
    return (
        f"| {concurrency} | {clients} | {rate:.1f} | {rate / concurrency:.2f} "
        f"| {statistics.median(times):.1f} / {p99:.1f} | {1000 * processor_seconds / (BATCH * len(times)):.1f} |"
    )


def memory(minutes):
    """Print a table of the memory during the load, and how fast it grows in the last third.

    When the load lasts for more than ten minutes, the server's cache of ratings is full before the last third begins.
    """
    points, end = [], threading.Event()

    def follow(program, start):
        while not end.wait(SAMPLE_SECONDS):
            points.append(((time.perf_counter() - start) / 60, program.mebibytes()))

    def watch(program):
        threading.Thread(target=follow, args=(program, time.perf_counter()), daemon=True).start()
        return end.set

    times, _, _ = measure(*LASTING_LOAD, 60 * minutes, watch)
    last_third = [point for point in points if 2 / 3 * minutes <= point[0] <= minutes]
    slope = statistics.linear_regression(*zip(*last_third, strict=True)).slope
    print(f"\n{BATCH * len(times):,} samples in {minutes} minutes\n\n| Minute | MiB |\n|---:|---:|")
    for minute in sorted({1, *range(5, minutes + 1, 5), minutes}):
        nearest = min(points, key=lambda point: abs(point[0] - minute))
        print(f"| {minute} | {nearest[1]:.0f} |")
    print(f"\nGrowth in the last third: {slope:+.2f} MiB a minute")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, help="measure only the memory, under a load of this many minutes")
    parser.add_argument("--judge", action="store_true", help="serve the judge (used internally)")
    options = parser.parse_args()
    if options.judge:
        return serve_judge()
    if options.minutes:
        return memory(options.minutes)
    print("| Judge requests at once | Batches in flight | scores/s | of the ideal | batch p50 / p99 s ", end="")
    print("| server's processor time, ms a score |\n|---:|---:|---:|---:|---:|---:|", flush=True)
    for load in LOADS:
        print(row(*load), flush=True)


if __name__ == "__main__":
    main()
