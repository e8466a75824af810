"""Take S3 away under load for ten minutes, and kill the gateway meanwhile; compare the logs with what clients got.

Run: nice -n 19 .venv/bin/python bench/gateway_logs.py [--away-seconds 600] [--kills 12] [--rate 30] [--seed 0]
(a quarter of an hour; needs, once, the S3 server of the tests, which it builds)
Clients ask steadily for answers and streams of random lengths, each with a prompt of its own, and some leave streams in
the middle. The S3 server is stopped, and the gateway is killed with SIGKILL at random moments: while S3 is away, and
once after its return, when the first object of what has waited is there. Then every answer that a client got must be in
the bucket once, with this client's prompt and text. The exit code is 1 when it is not.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gateway_load import MODEL, Load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from cluster.build import find_binaries  # noqa: E402
from cluster.object_store import ObjectStore  # noqa: E402
from support.conversation_logs import objects, records  # noqa: E402
from support.gateway import Gateway, route  # noqa: E402
from support.patience import wait_until  # noqa: E402
from support.vllm_bytes import VllmBytes  # noqa: E402

from rft_api.conversation_logs import ConversationLogs  # noqa: E402

BUCKET = "production"
PRESENT_SECONDS = 90.0
"""Time for which S3 is there before it goes, and again after its return: the gateway uploads once a minute."""
WAITING = "rft_gateway_log_waiting_records"


async def take_away(store, bucket, gateway, load, seconds, kills, seed):
    """Stop S3 for so many seconds under load, with so many kills of the gateway; return what waited at the end."""
    choice = random.Random(seed)
    async with load:
        await load.go_on(PRESENT_SECONDS)
        await asyncio.to_thread(store.stop)
        uploaded = len(objects(bucket))
        deadline = time.monotonic() + seconds
        for moment in sorted(choice.uniform(0.0, seconds) for _ in range(kills - 1)):
            await load.go_on(max(0.0, deadline - seconds + moment - time.monotonic()))
            await load.restart()
        await load.go_on(max(0.0, deadline - time.monotonic()))
        waiting = (await asyncio.to_thread(gateway.metrics))[WAITING]
        await asyncio.to_thread(store.start)
        while len(objects(bucket)) == uploaded:
            await load.go_on(0.01)
        await load.restart()
        await load.go_on(PRESENT_SECONDS)
    return waiting


def compare(load, logged):
    """Return the rows that must be 0: what is wrong with the records of the log."""
    counts = Counter(record["requestId"] for record in logged)
    differ = sum(
        1
        for record in logged
        if (answer := load.answers.get(record["requestId"])) and (answer.prompt, answer.text) != _texts(record)
    )
    return {
        "answered requests that are not on S3": len(load.answers.keys() - counts.keys()),
        "requests that are there twice": sum(1 for count in counts.values() if count > 1),
        "answers with another prompt or text than the client's": differ,
    }


def _texts(record):
    prompt = record["input"]["inputBodyJson"]["messages"][0]["content"]
    return prompt, record["output"]["outputBodyJson"]["choices"][0]["message"]["content"]


def run(folder, options):
    store = ObjectStore(folder / "s3", find_binaries(("versitygw",), print)["versitygw"])
    bucket = store.make_bucket(BUCKET)
    logs = ConversationLogs(uri=f"s3://{BUCKET}/{MODEL}/")
    store.start()
    try:
        with VllmBytes(MODEL) as server:
            server.keeps_requests = False
            gateway = Gateway(
                folder / "gateway", [route(MODEL, server.url, logs=logs)], "--spool", str(folder / "spool"),
                environment=store.environment(),
            )  # fmt: skip
            load = Load(gateway, options.seed, options.rate)
            with gateway:
                began = time.monotonic()
                waiting = asyncio.run(
                    take_away(store, bucket, gateway, load, options.away_seconds, options.kills, options.seed)
                )
                seconds = time.monotonic() - began
                wait_until(lambda: gateway.metrics()[WAITING] == 0, lambda: gateway.metrics()[WAITING])
                assert gateway.stop() == 0, gateway.log
            logged = records(bucket)
            wrong = compare(load, logged)
            figures = {
                "seconds of load": seconds,
                "of these without S3": options.away_seconds,
                "kills of the gateway": options.kills,
                "answered requests": len(load.answers),
                "streams that their clients left": len(load.left),
                "requests without a whole answer": load.broken,
                "conversations that waited when S3 came back": waiting,
                "conversations on S3": len(logged),
                "objects": len(objects(bucket)),
            }
    finally:
        store.stop()
    print("| | |\n|---|---|")
    for name, figure in {**figures, **wrong}.items():
        print(f"| {name} | {figure:,.0f} |")
    return not any(wrong.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--away-seconds", type=float, default=600.0)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()  # the stand-in's, about connections that break off
    with tempfile.TemporaryDirectory(prefix="rft-logs-") as folder:
        return 0 if run(Path(folder), options) else 1


if __name__ == "__main__":
    sys.exit(main())
