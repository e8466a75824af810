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

import aiohttp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.gateway import Gateway, route  # noqa: E402
from support.ledger_entries import rows  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.vllm_bytes import VllmBytes  # noqa: E402

MODEL = "model"
CLIENTS = 24
MOST_TOKENS = 12
LEAVING = 0.05
"""Share of the streams that their clients leave after the first part."""


class Load:
    """The clients of a gateway, and what they have got: the tokens of answers that came whole, by request.

    Args:
        gateway: the gateway, which may be killed and started again.
        seed: of the lengths of answers.
    """

    def __init__(self, gateway, seed):
        self.gateway = gateway
        self.random = random.Random(seed)
        self.answered = {}
        self.left = set()
        self.broken = 0
        self.stop = False

    async def client(self, session):
        while not self.stop:
            tokens, stream = self.random.randint(1, MOST_TOKENS), self.random.random() < 0.5
            body = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}], "max_tokens": tokens}
            headers = {"authorization": f"Bearer {self.gateway.token}"}
            url = f"{self.gateway.url}/v1/chat/completions"
            try:
                async with session.post(url, json={**body, "stream": stream}, headers=headers) as answer:
                    name = answer.headers["x-request-id"]
                    if stream and self.random.random() < LEAVING:
                        await answer.content.readany()
                        self.left.add(name)
                        answer.close()
                        continue
                    text = await answer.text()
                    if answer.ok and (not stream or text.endswith("data: [DONE]\n\n")):
                        self.answered[name] = tokens
            except (aiohttp.ClientError, OSError):
                self.broken += 1
                await asyncio.sleep(0.02)

    async def run(self, requests, kills):
        """Ask until so many requests are answered, with so many kills at random moments between them."""
        moments = sorted(self.random.randrange(requests * 9 // 10) for _ in range(kills))
        connector = aiohttp.TCPConnector(limit=CLIENTS, force_close=False)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            clients = [asyncio.create_task(self.client(session)) for _ in range(CLIENTS)]
            for number, moment in enumerate([*moments, requests]):
                while len(self.answered) < moment:
                    await asyncio.sleep(0.001)
                if number < kills:
                    await asyncio.to_thread(self.restart)
            self.stop = True
            await asyncio.gather(*clients)

    def restart(self):
        self.gateway.kill()
        self.gateway.start()


def check(load, entries, server):
    """Return the row of the table, and whether everything is as it must be."""
    counts = Counter(entry["id"] for entry in entries)
    by_name = {entry["id"]: entry for entry in entries}
    missing = load.answered.keys() - by_name.keys()
    twice = sum(1 for count in counts.values() if count > 1)
    differ = sum(
        1
        for name, tokens in load.answered.items()
        if name in by_name and (by_name[name]["completion_tokens"], by_name[name]["prompt_tokens"]) != (tokens, 2)
    )
    counted = server.tokens_by_request
    # Of a stream that its client has left, the server may have generated more tokens than it could still send.
    beyond = sum(
        1
        for entry in entries
        if entry["outcome"] == "Answered" and counted.get(entry["id"]) != entry["completion_tokens"]
    )
    row = [
        len(load.answered), len(load.left), load.broken, len(entries), len(missing), twice, differ, beyond,
    ]  # fmt: skip
    return row, not (missing or twice or differ or beyond)


def run(name, folder, requests, kills, seed, ledger):
    with VllmBytes(MODEL) as server:
        server.keeps_requests = False
        with Gateway(folder, [route(MODEL, server.url)], *(["--ledger", ledger] if ledger else [])) as gateway:
            load = Load(gateway, seed)
            asyncio.run(load.run(requests, kills))
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
