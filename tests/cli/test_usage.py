"""`rft usage` passes its options to the gateway's report, and ends as that does."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from support.ledger_entries import entry

from rft_gateway.ledger import Ledger


def rft_usage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rft_cli.main", "usage", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_report_of_a_ledger(tmp_path):
    file = str(tmp_path / "ledger.db")

    async def write() -> None:
        ledger = Ledger(file)
        await ledger.prepare()
        await asyncio.gather(ledger.write(entry()), ledger.write(entry(namespace="team-b")))
        await ledger.close()

    asyncio.run(write())
    options = ["--by", "day,key", "--since", "2026-11-01", "--until", "2026-11-30", "--namespace", "team-a", "--csv"]
    done = rft_usage(file, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "day,key,requests,prompt_tokens,cached_tokens,completion_tokens,cost\n2026-11-05,alice,1,100,40,10,0\n"
    )


def test_errors_are_those_of_the_report(tmp_path):
    missing = rft_usage(str(tmp_path / "missing.db"))
    assert (missing.returncode, missing.stderr) == (10, f"error: {tmp_path}/missing.db: there is no such file\n")
    wrong = rft_usage("--by", "moon")
    assert wrong.returncode == 2
    assert "'moon' is none of day, namespace, key, model" in wrong.stderr


def test_without_the_gateway_the_package_is_named(monkeypatch, rft):
    monkeypatch.setattr("rft_cli.usage.find_spec", lambda _: None)
    done = rft("usage", "ledger.db")
    assert (done.returncode, done.stderr) == (10, "error: rft usage needs the package rft-gateway; install it, too\n")
