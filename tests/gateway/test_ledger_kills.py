"""Whatever a ledger has confirmed outlives its process: kill -9 at random moments, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from support.ledger_entries import rows

WRITER = Path(__file__).with_name("ledger_writer.py")
KILLS = 15


def confirmed(address: str, count: int) -> list[str]:
    """Let a process write until it has confirmed so many entries, kill it, and return all that it has confirmed."""
    with subprocess.Popen([sys.executable, WRITER, address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(count)]
        process.kill()
        lines += process.stdout.readlines()
    assert all(line.endswith("\n") for line in lines), "the writer has ended by itself"
    return lines


def test_every_confirmed_entry_is_there_once(ledger_address):
    random_counts = random.Random(0)
    lines: list[str] = []
    for _ in range(KILLS):
        lines += confirmed(ledger_address, random_counts.randint(1, 300))
    entries = rows(ledger_address)
    kept = {row["id"]: row for row in entries}
    assert len(lines) == len({line.split()[0] for line in lines}) >= KILLS
    for line in lines:
        identifier, tokens = line.split()
        assert kept[identifier]["prompt_tokens"] == int(tokens)
    # Beyond what was confirmed there is at most what each process was writing when it was killed.
    assert len(entries) == len(kept) <= len(lines) + KILLS * 20
