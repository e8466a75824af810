"""Scores per second of the reward server, next to the same function called in process; prints a table.

Run: uv run python bench/reward_server.py
The two sides alternate within one run, so that they see the same machine. Over HTTP, one client sends one batch after
the other on one connection (`1 client`), or four clients do (`4 clients`).
"""

import concurrent.futures
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

from rft_api.reward_protocol import build_sample

ROOT = Path(__file__).parent.parent
ROUNDS = 3
ROUND_SECONDS = 0.5


def python_samples(count):
    rows = [json.loads(line) for line in (ROOT / "examples/quickstart/data/train.jsonl").read_text().splitlines()]
    return [
        build_sample(str(n), row["messages"], json.dumps(row["reference_answer"]), row["reference_answer"], {})
        for n, row in enumerate(rows[:count])
    ]


def math_samples(count):
    text = "Each box holds 12 pens, so 7 boxes hold 12 * 7 = 84 pens. We gave {0} away.\n#### {0}"
    prompt = [{"role": "user", "content": "How many pens?"}]
    return [build_sample(str(n), prompt, text.format(n), f"{n}.0", {}) for n in range(count)]


def latex_samples(count):
    prompt = [{"role": "user", "content": "Simplify."}]
    return [
        build_sample(str(n), prompt, f"So \\boxed{{\\sqrt{{{n + 2}}}}}", f"\\frac{{{n + 2}}}{{\\sqrt{{{n + 2}}}}}", {})
        for n in range(count)
    ]


def python_in_process():
    sys.path.insert(0, str(ROOT / "examples/quickstart"))
    import reward

    return lambda samples: reward.lambda_handler(samples, None)


def math_in_process():
    from rft_reward.graders import math_answer

    grade = math_answer.build({})
    return lambda samples: [grade(sample) for sample in samples]


CASES = {
    "python (quickstart)": (
        {"python": {"source": (ROOT / "examples/quickstart/reward.py").read_text()}},
        python_samples,
        python_in_process,
    ),
    "Math, numbers": ({"builtin": {"name": "Math"}}, math_samples, math_in_process),
    "Math, LaTeX": ({"builtin": {"name": "Math"}}, latex_samples, math_in_process),
}


class Server:
    """The reward server as a subprocess, without a token."""

    def __init__(self, folder, spec):
        file = Path(folder) / "function.json"
        function = {"apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "bench"}}
        file.write_text(json.dumps({**function, "spec": spec}))
        command = [sys.executable, "-m", "rft_reward", "--function", str(file), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().split("//")[1].strip()
        while self.request("GET", "/readyz", None)[0] != 200:
            time.sleep(0.1)

    def request(self, method, path, body, connection=None):
        connection = connection or http.client.HTTPConnection(self.address)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()

    def stop(self):
        self.process.terminate()
        self.process.wait()


def client(server, body, seconds):
    """Batches after each other on one connection; the seconds of each."""
    connection = http.client.HTTPConnection(server.address)
    server.request("POST", "/v1/score", body, connection)
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        status, answer = server.request("POST", "/v1/score", body, connection)
        times.append(time.perf_counter() - start)
        assert status == 200, answer
        assert b'"error"' not in answer, answer[:500]
    return times


def in_process(function, samples, seconds):
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        function(samples)
        times.append(time.perf_counter() - start)
    return times


def percentile(times, percent):
    return 1000 * statistics.quantiles(times, n=100)[percent - 1] if len(times) > 1 else 1000 * times[0]


def main():
    print(f"{'reward':<20}{'batch':>6}  {'side':<12}{'scores/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}")
    for name, (spec, make_samples, make_function) in CASES.items():
        function = make_function()
        with tempfile.TemporaryDirectory() as folder:
            server = Server(folder, spec)
            try:
                for size in (1, 64):
                    measure(name, size, server, function, make_samples(size))
            finally:
                server.stop()


def measure(name, size, server, function, samples):
    body = orjson.dumps(samples)
    sides = {"in process": [], "1 client": [], "4 clients": []}
    spent = dict.fromkeys(sides, 0.0)
    function(samples)
    for _ in range(ROUNDS):
        for side, times in sides.items():
            start = time.perf_counter()
            if side == "in process":
                times += in_process(function, samples, ROUND_SECONDS)
            else:
                count = int(side.split()[0])
                with concurrent.futures.ThreadPoolExecutor(count) as threads:
                    for some in threads.map(lambda _: client(server, body, ROUND_SECONDS), range(count)):
                        times += some
            spent[side] += time.perf_counter() - start
    rate = {side: size * len(times) / spent[side] for side, times in sides.items()}
    for side, times in sides.items():
        ratio = rate[side] / rate["in process"]
        row = f"{rate[side]:>10.0f}{percentile(times, 50):>9.2f}{percentile(times, 99):>9.2f}{ratio:>7.2f}"
        print(f"{name:<20}{size:>6}  {side:<12}{row}", flush=True)


if __name__ == "__main__":
    main()
