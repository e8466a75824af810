"""Measure the scores per second of the reward server and of the same function in process; print a Markdown table.

Run: .venv/bin/python bench/reward_server.py [BUILTIN ...] (all: four minutes)
The sides alternate within one run, so that the load of the machine is the same for both. Over HTTP, one client sends
batch after batch on one connection, or four clients do so at the same time.
"""

import argparse
import concurrent.futures
import json
import random
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import orjson

from rft_api.builtin_table import options_key
from rft_api.reward_protocol import build_sample

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.builtins import grader  # noqa: E402
from support.reward_server import RewardServer  # noqa: E402

ROUNDS = 4
ROUND_SECONDS = 0.5
FORMAT = {"maximumWords": 80, "minimumSentences": 1, "excludes": ["sorry"]}
SIDES = {"in process": 0, "1 client": 1, "4 clients": 4}
TEXT = "the box holds twelve pens so we count them again and give some away before lunch on every second day"


def overlap_samples(count):
    """Return samples of about 150 words, as in a summary with its reasoning."""
    random_words = random.Random(0)
    texts = [[" ".join(random_words.choices(TEXT.split(), k=size)) for size in (90, 60, 60)] for _ in range(count)]
    return [
        sample(number, f"<think>{think}</think>\n<answer>{answer}</answer>", reference)
        for number, (think, answer, reference) in enumerate(texts)
    ]


def quickstart_samples(count):
    return [sample(n, json.dumps({"value": str(n), "unit": "$"}), {"value": "54", "unit": "$"}) for n in range(count)]


def number_samples(count):
    """Return solutions of about 80 words that end with the answer as in GSM8K."""
    steps = "Each of the {0} boxes holds 12 pens. That makes {0} * 12 pens, of which we give some away every day.\n" * 4
    return [sample(n, f"{steps.format(n)}#### {n:,}", f"{n}.0") for n in range(count)]


def latex_samples(count):
    return [
        sample(n, f"So the answer is \\boxed{{\\sqrt{{{n}}}}}.", f"\\frac{{{n}}}{{\\sqrt{{{n}}}}}")
        for n in range(2, count + 2)
    ]


def json_samples(count):
    fields = {"category": "billing", "priority": "high", "customer": {"name": "Ada", "since": 2019}, "tags": ["a", "b"]}
    return [sample(n, json.dumps({**fields, "id": n}), {**fields, "id": 7, "extra": None}) for n in range(count)]


def label_samples(count):
    return [sample(n, f"billing, urgent, invoice {n}", ["billing", "urgent", "refund"]) for n in range(count)]


def text_samples(count):
    """Return texts of 60 words with references."""
    random_words = random.Random(0)
    texts = [[" ".join(random_words.choices(TEXT.split(), k=60)) for _ in range(2)] for _ in range(count)]
    return [sample(number, completion, reference) for number, (completion, reference) in enumerate(texts)]


def code_samples(count):
    """Return samples with the code of a function and three asserts."""
    code = "```python\ndef add(a, b):\n    return a + b + {0} - {0}\n```"
    tests = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add('a', 'b') == 'ab'"
    return [sample(n, code.format(n), {"tests": tests}) for n in range(count)]


def sample(number, completion, reference_answer):
    prompt = [{"role": "user", "content": f"{TEXT}. {TEXT}. {TEXT}?"}]
    return build_sample(str(number), prompt, completion, reference_answer, {})


def python(file):
    handler = runpy.run_path(str(ROOT / file))["lambda_handler"]
    return {"python": {"source": (ROOT / file).read_text()}}, lambda samples: handler(samples, None)


def builtin(name, options=None):
    grade = grader(name, **(options or {}))
    spec = {"builtin": {"name": name, **({options_key(name): options} if options else {})}}
    return spec, lambda samples: [grade(sample) for sample in samples]


CASES = {
    "`python`: word overlap": (*python("bench/overlap_reward.py"), overlap_samples),
    "`python`: quickstart": (*python("examples/quickstart/reward.py"), quickstart_samples),
    "`Math`: numbers": (*builtin("Math"), number_samples),
    "`Math`: LaTeX": (*builtin("Math"), latex_samples),
    "`Json`": (*builtin("Json"), json_samples),
    "`ExactMatch`": (*builtin("ExactMatch"), text_samples),
    "`F1`: labels": (*builtin("F1"), label_samples),
    "`Format`": (*builtin("Format", FORMAT), text_samples),
    "`Rouge`": (*builtin("Rouge"), text_samples),
    "`Bleu`": (*builtin("Bleu"), text_samples),
    "`ChrF`": (*builtin("ChrF"), text_samples),
    # This reward runs code in processes of the server's workers, so there is no side without a server.
    "`Code`: three asserts": ({"builtin": {"name": "Code"}, "timeout": "60s"}, None, code_samples),
}


def over_http(server, body):
    """Return a function that sends the batch to the server on a connection of its own."""
    connection = server.connect()

    def score():
        connection.request("POST", "/v1/score", body)
        response = connection.getresponse()
        response_body = response.read()
        assert response.status == 200, response_body
        assert b'"error"' not in response_body, response_body[:500]

    return score


def repeat(score):
    """Call a function for one round, after one call that is not measured; return the seconds of each call."""
    score()
    times, end = [], time.perf_counter() + ROUND_SECONDS
    while (start := time.perf_counter()) < end:
        score()
        times.append(time.perf_counter() - start)
    return times


def measure(server, function, samples):
    """Return the seconds of all calls, by side."""
    body = orjson.dumps(samples)
    times = {side: [] for side in SIDES}
    with concurrent.futures.ThreadPoolExecutor(max(SIDES.values())) as threads:
        for _ in range(ROUNDS):
            for side, clients in SIDES.items():
                if clients:
                    for times_of_client in threads.map(repeat, [over_http(server, body) for _ in range(clients)]):
                        times[side] += times_of_client
                elif function is not None:
                    times[side] += repeat(lambda: function(samples))
    return times


def row(name, size, times):
    rates = {
        side: max(1, clients) * size * len(times[side]) / sum(times[side] or [1]) for side, clients in SIDES.items()
    }
    cells = [name, str(size)]
    for side, calls in times.items():
        in_process = rates["in process"]
        cells.append(f"{rates[side]:,.0f}" if calls else "")
        if SIDES[side]:
            cells.append(f"{rates[side] / in_process:.2f}" if in_process else "")
        cells.append(f"{percentile(calls, 50)} / {percentile(calls, 99)}" if calls else "")
    return f"| {' | '.join(cells)} |"


def percentile(times, percent):
    value = statistics.quantiles(times, n=100, method="inclusive")[percent - 1]
    return f"{1000 * value:.3f}" if value < 0.001 else f"{1000 * value:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builtins", nargs="*", help="rewards to measure, such as F1 (all)")
    builtins = parser.parse_args().builtins
    rows = []
    for name, (spec, function, make_samples) in CASES.items():
        if builtins and not any(f"`{builtin_name}`" in name for builtin_name in builtins):
            continue
        with tempfile.TemporaryDirectory() as folder, RewardServer(Path(folder), spec, token=None) as server:
            for size in (1, 64):
                print(f"measuring {name}, batches of {size} ...", file=sys.stderr, flush=True)
                rows.append(row(name, size, measure(server, function, make_samples(size))))
    print("| Reward | Batch | In process: scores/s | p50 / p99 ms | 1 client: scores/s | ratio | p50 / p99 ms ", end="")
    print("| 4 clients: scores/s | ratio | p50 / p99 ms |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
