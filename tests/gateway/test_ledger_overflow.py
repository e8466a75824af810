"""A ledger with entries of absurd size, or that cannot be summed: it is reported, and the gateway starts."""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from pathlib import Path

from support.gateway import Gateway, route
from support.vllm_bytes import VllmBytes

from rft_api.gateway_key import Limits
from rft_gateway.usage_report import main

HUGE = 72_058_693_549_490_175
"""Tokens of an entry that gateways have recorded: 65,537 completions of 2^40 - 1 tokens."""
ENTRIES = 300


def copies(file: Path) -> None:
    """Replaces the entry of a ledger by many with a huge number of tokens."""
    with sqlite3.connect(file) as database:
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(ledger_entries)")]
        values = [str(HUGE) if name in ("prompt_tokens", "completion_tokens") else name for name in names[1:]]
        for number in range(ENTRIES):
            database.execute(
                f"INSERT INTO ledger_entries SELECT '{number:032x}', {', '.join(values)} FROM ledger_entries "
                "WHERE length(id) = 32 AND prompt_tokens < 1000 LIMIT 1"
            )
    database.close()


def test_absurd_entries_are_reported_and_counted_and_do_not_stop_the_start(tmp_path, server: VllmBytes):
    gateway = Gateway(tmp_path, [route("m", server.url)])
    token = gateway.add_key("limited", limits=Limits(tokens_per_day=1000))
    question = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
    with gateway:
        assert gateway.post("/v1/chat/completions", question, token).is_success
        copies(gateway.ledger_file)
        gateway.stop()
    with gateway:
        start = f"start_time={int(time.time()) - 86_400}"
        with gateway.client() as client:
            usage = client.get(f"/v1/organization/usage/completions?{start}")
            costs = client.get(f"/v1/organization/costs?{start}&group_by=line_item")
        assert (usage.status_code, costs.status_code) == (200, 200)
        sums = [result["input_tokens"] for bucket in usage.json()["data"] for result in bucket["results"]]
        assert sum(sums) // HUGE == ENTRIES
        assert gateway.post("/v1/chat/completions", question, token).status_code == 429
        assert gateway.post("/v1/chat/completions", question).is_success
    output = io.StringIO()
    assert main([str(gateway.ledger_file), "--csv"], output) == 0
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(output.getvalue()))}
    assert int(rows["limited"]["prompt_tokens"]) // HUGE == ENTRIES


def test_a_ledger_whose_totals_cannot_be_read_does_not_stop_the_start(tmp_path, server: VllmBytes):
    gateway = Gateway(tmp_path, [route("m", server.url)])
    with gateway:
        gateway.stop()
    with sqlite3.connect(gateway.ledger_file) as database:
        database.execute("ALTER TABLE ledger_entries RENAME COLUMN cached_price TO other")
    database.close()
    with gateway:
        assert gateway.client().get("/v1/models").is_success
        assert "limits of days and months do not count what was used before the start" in gateway.log
