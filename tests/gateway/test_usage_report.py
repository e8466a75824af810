"""`rft usage` prints a ledger as a table and as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import timedelta

import pytest
from support.ledger_entries import NOON, entry

from rft_gateway.ledger import Ledger, Price
from rft_gateway.ledger.database import connect
from rft_gateway.settings import LEDGER_VARIABLE
from rft_gateway.usage_report import main

SINCE = ["--since", "2026-11-01"]


@pytest.fixture
def ledger(ledger_address: str) -> str:
    price = Price.per_million("1", "2000", cached="0.5")

    async def write() -> None:
        ledger = Ledger(ledger_address)
        await ledger.prepare()
        entries = [
            entry(price=price),
            entry(price=price, time=NOON + timedelta(days=1)),
            entry(key="bob", prompt_tokens=1234567),
            entry(namespace="team-b"),
            entry(time=NOON - timedelta(days=30)),
        ]
        await asyncio.gather(*map(ledger.write, entries))
        await ledger.close()

    asyncio.run(write())
    return ledger_address


def report(*arguments: str) -> str:
    output = io.StringIO()
    assert main(arguments, output) == 0
    return output.getvalue()


def test_the_table_has_a_sum(ledger):
    assert report(ledger, *SINCE, "--namespace", "team-a") == (
        "key    model    requests  prompt tokens  cached tokens  completion tokens     cost\n"
        "──────────────────────────────────────────────────────────────────────────────────\n"
        "alice  amounts         2            200             80                 20  0.04016\n"
        "bob    amounts         1        1234567             40                 10        0\n"
        "──────────────────────────────────────────────────────────────────────────────────\n"
        "total                  3        1234767            120                 30  0.04016\n"
    )


def test_keys_of_two_namespaces_with_the_same_name_are_two(ledger):
    assert report(ledger, *SINCE) == (
        "namespace  key    model    requests  prompt tokens  cached tokens  completion tokens     cost\n"
        "─────────────────────────────────────────────────────────────────────────────────────────────\n"
        "team-a     alice  amounts         2            200             80                 20  0.04016\n"
        "team-a     bob    amounts         1        1234567             40                 10        0\n"
        "team-b     alice  amounts         1            100             40                 10        0\n"
        "─────────────────────────────────────────────────────────────────────────────────────────────\n"
        "total                             4        1234867            160                 40  0.04016\n"
    )
    rows = list(csv.DictReader(io.StringIO(report(ledger, *SINCE, "--by", "key", "--csv"))))
    assert [(row["namespace"], row["key"], row["requests"]) for row in rows] == [
        ("team-a", "alice", "2"),
        ("team-a", "bob", "1"),
        ("team-b", "alice", "1"),
    ]


def test_csv_by_day_and_namespace(ledger, monkeypatch):
    monkeypatch.setenv(LEDGER_VARIABLE, ledger)
    lines = list(csv.DictReader(io.StringIO(report(*SINCE, "--until", "2026-11-05", "--by", "day,namespace", "--csv"))))
    assert [(line["day"], line["namespace"], line["requests"]) for line in lines] == [
        ("2026-11-05", "team-a", "2"),
        ("2026-11-05", "team-b", "1"),
    ]
    assert float(lines[0]["cost"]) == 0.02008
    assert "key" not in lines[0]


def test_everything_together(ledger):
    head, _, line, _, total = report(ledger, "--since", "2026-01-01", "--by", "").splitlines()
    assert head.split()[0] == "requests"
    assert line.split()[0] == total.split()[0] == "5"


def test_what_is_no_ledger_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(LEDGER_VARIABLE, raising=False)
    other = tmp_path / "other.db"
    connect(str(other)).connect().close()
    for arguments, message in [
        ([str(tmp_path / "missing.db")], "missing.db: there is no such file"),
        ([str(tmp_path)], f"{tmp_path}: is a folder; name the file of the ledger, such as {tmp_path}/ledger.db"),
        ([str(other)], "other.db: cannot be read as a ledger: no such table"),
        ([], "name the ledger"),
    ]:
        assert main(arguments) == 10
        assert message in capsys.readouterr().err
    assert not (tmp_path / "missing.db").exists()
