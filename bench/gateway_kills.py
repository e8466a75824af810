"""Kill the gateway again and again under load; check its ledger against the clients and the server, and print a table.

Run: .venv/bin/python bench/gateway_kills.py [--requests 20000] [--kills 50] [--seed 0] (four minutes)
Clients ask for answers and streams of random lengths, until so many have come whole, and some clients leave streams in
the middle. Meanwhile the gateway is killed with SIGKILL at random moments and started again, once with a ledger in
SQLite and once in PostgreSQL. A stand-in that writes vLLM's bytes counts by itself what it has generated for each
request. The exit code is 1 when an answered request is missing, an entry is there twice, or tokens differ.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from gateway_load import MODEL, PROMPT_WORDS, Load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.gateway import Gateway, route  # noqa: E402
from support.ledger_entries import rows  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.vllm_bytes import VllmBytes  # noqa: E402


async def kill_under_load(load, requests, kills, seed):
    """Have clients ask until so many requests are answered, with so many kills at random moments between them."""
    choice = random.Random(seed)
    async with load:
        for moment in sorted(choice.randrange(requests * 9 // 10) for _ in range(kills)):
            await load.wait_for(moment)
            await load.restart()
        await load.wait_for(requests)


def check(load, entries, server):
    """Return the row of the table, and whether everything is as it must be."""
    counts = Counter(entry["id"] for entry in entries)
    by_name = {entry["id"]: entry for entry in entries}
    missing = load.answers.keys() - by_name.keys()
    twice = sum(1 for count in counts.values() if count > 1)
    differ = sum(
        1
        for name, answer in load.answers.items()
        if name in by_name and _tokens(by_name[name]) != (PROMPT_WORDS, len(answer.text.split()))
    )
    counted = server.tokens_by_request
    # Of a stream that its client has left, the server may have generated more tokens than it could still send.
    beyond = sum(
        1
        for entry in entries
        if entry["outcome"] == "Answered" and counted.get(entry["id"]) != entry["completion_tokens"]
    )
    row = [
        len(load.answers), len(load.left), load.broken, len(entries), len(missing), twice, differ, beyond,
    ]  # fmt: skip
    return row, not (missing or twice or differ or beyond)


def _tokens(entry):
    return entry["prompt_tokens"], entry["completion_tokens"]


def run(name, folder, requests, kills, seed, ledger):
    with VllmBytes(MODEL) as server:
        server.keeps_requests = False
        with Gateway(folder, [route(MODEL, server.url)], *(["--ledger", ledger] if ledger else [])) as gateway:
            load = Load(gateway, seed)
            asyncio.run(kill_under_load(load, requests, kills, seed))
            assert gateway.stop() == 0
            entries = rows(ledger or str(gateway.ledger_file))
        row, right = check(load, entries, server)
    print(f"| {name} | {' | '.join(f'{cell:,}' for cell in row)} |", flush=True)
    return right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()  # the stand-in's, about connections that break off
    columns = [
        "ledger", "answered", "left by clients", "broken off", "entries", "missing", "twice",
        "other tokens than clients got", "than the server counted",
    ]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rft-kills-") as folder:
        (Path(folder) / "postgres").mkdir()
        (Path(folder) / "postgres").chmod(0o755)
        Path(folder).chmod(0o755)
        postgres = Postgres(Path(folder) / "postgres")
        try:
            results = [
                run(name, Path(folder) / name, options.requests, options.kills, options.seed, ledger)
                for name, ledger in (("SQLite", None), ("PostgreSQL", postgres.create_database()))
            ]
        finally:
            postgres.stop()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
