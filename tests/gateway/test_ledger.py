"""The ledger: entries are in it once, in few transactions, or their writers are told why not."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from sqlalchemy import event, text
from support.ledger_entries import NOON, entry, rows
from support.patience import PATIENCE_SECONDS, wait_until

from rft_gateway.ledger import Ledger, LedgerError, Outcome, Price, TotalsQuery
from rft_gateway.ledger.database import SCHEMA_VERSION, connect, create_tables

DAY = 86_400


@asynccontextmanager
async def opened(address: str, patience: float = PATIENCE_SECONDS):
    ledger = Ledger(address, patience)
    await ledger.prepare()
    try:
        yield ledger
    finally:
        await ledger.close()


def test_an_entry_is_kept_with_all_its_fields(ledger_address):
    price = Price.per_million("0.15", "0.6", cached="0.0375")
    kept = entry(cold_start_seconds=1.5, status=499, outcome=Outcome.CLIENT_LEFT, price=price)

    async def write():
        async with opened(ledger_address) as ledger:
            await ledger.write(kept)

    asyncio.run(write())
    assert rows(ledger_address) == [
        {
            "id": kept.id, "time": int(NOON.timestamp()) * 1000, "namespace": "team-a", "key": "alice",
            "model": "amounts", "base": "smollm2", "prompt_tokens": 100, "cached_tokens": 40, "completion_tokens": 10,
            "prompt_price": 150_000, "cached_price": 37_500, "completion_price": 600_000, "cold_start_seconds": 1.5,
            "duration_seconds": 0.5, "status": 499, "outcome": "ClientLeft",
        }
    ]  # fmt: skip


def test_entries_that_wait_are_one_transaction(ledger_address):
    async def write() -> int:
        commits = []
        free, held = threading.Event(), asyncio.Event()
        async with opened(ledger_address) as ledger:
            loop = asyncio.get_running_loop()

            def hold(_: object) -> None:
                commits.append(1)
                loop.call_soon_threadsafe(held.set)
                free.wait(PATIENCE_SECONDS)

            event.listen(ledger.engine, "commit", hold)
            writes = [asyncio.create_task(ledger.write(entry()))]
            await held.wait()
            writes += [asyncio.create_task(ledger.write(entry())) for _ in range(500)]
            await asyncio.sleep(0)
            assert ledger.waiting == 500
            free.set()
            await asyncio.gather(*writes)
        return len(commits)

    assert asyncio.run(write()) == 2
    assert len(rows(ledger_address)) == 501


def test_an_entry_that_is_written_twice_is_there_once(ledger_address):
    once = entry()

    async def write():
        async with opened(ledger_address) as ledger:
            await asyncio.gather(ledger.write(once), ledger.write(once))
            await ledger.write(replace(once, completion_tokens=11))

    asyncio.run(write())
    assert [row["completion_tokens"] for row in rows(ledger_address)] == [10]


def test_a_value_that_the_database_refuses_fails_alone(ledger_address):
    broken = entry(prompt_tokens=1 << 70)
    good = [entry() for _ in range(3)]

    async def write():
        async with opened(ledger_address) as ledger:
            return await asyncio.gather(*map(ledger.write, [good[0], broken, *good[1:]]), return_exceptions=True)

    results = asyncio.run(write())
    assert [type(result) for result in results] == [type(None), LedgerError, type(None), type(None)]
    assert "cannot hold this entry" in str(results[1])
    assert {row["id"] for row in rows(ledger_address)} == {each.id for each in good}


def test_a_cancelled_writer_has_written(ledger_address):
    async def write():
        async with opened(ledger_address) as ledger:
            task = asyncio.create_task(ledger.write(entry()))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    asyncio.run(write())
    assert len(rows(ledger_address)) == 1


def test_after_the_end_nothing_is_taken(ledger_address):
    async def write():
        async with opened(ledger_address) as ledger:
            pass
        await ledger.write(entry())

    with pytest.raises(LedgerError, match="the ledger is closed"):
        asyncio.run(write())


def test_several_gateways_create_the_tables_at_once(ledger_address):
    count = 8
    together = threading.Barrier(count)

    def create(_: int) -> None:
        async def open_one():
            async with opened(ledger_address):
                pass

        together.wait(PATIENCE_SECONDS)
        asyncio.run(open_one())

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(create, range(count)))
    assert rows(ledger_address) == []


def test_several_gateways_write_to_one_ledger(postgres):
    shared = [entry() for _ in range(50)]

    async def write_one(name: str):
        async with opened(postgres) as ledger:
            await asyncio.gather(*(ledger.write(entry(key=name)) for _ in range(200)), *map(ledger.write, shared))

    async def write():
        await asyncio.gather(*(write_one(f"gateway-{number}") for number in range(3)))

    asyncio.run(write())
    kept = rows(postgres)
    assert len(kept) == len({row["id"] for row in kept}) == 3 * 200 + 50
    assert sum(row["key"] == "gateway-1" for row in kept) == 200


def test_a_ledger_of_a_newer_version_is_refused(ledger_address):
    engine = connect(ledger_address)
    create_tables(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE ledger_schema SET version = {SCHEMA_VERSION + 1}"))
    engine.dispose()

    async def write():
        async with opened(ledger_address):
            pass

    with pytest.raises(LedgerError, match=rf"schema has version {SCHEMA_VERSION + 1}, and this program knows versions"):
        asyncio.run(write())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_entries_wait_while_the_database_is_away(postgres_server, postgres, how):
    async def write() -> str | None:
        async with opened(postgres) as ledger:

            async def write_on():
                for _ in range(30):
                    await ledger.write(entry())

            writing = [asyncio.create_task(write_on()) for _ in range(20)]
            await ledger.write(entry())
            postgres_server.stop(how)  # in the middle of it: no task runs on until the server has ended
            try:
                failure = await asyncio.to_thread(wait_until, lambda: ledger.failure)
                assert not any(task.done() for task in writing)
            finally:
                postgres_server.start()
            await asyncio.gather(*writing)
            assert ledger.failure is None
        return failure

    assert "cannot be written: " in asyncio.run(write())
    assert len(rows(postgres)) == 20 * 30 + 1


def test_when_the_database_stays_away_writers_are_told(postgres_server, postgres):
    async def write():
        async with opened(postgres, patience=0) as ledger:
            postgres_server.stop()
            try:
                with pytest.raises(LedgerError, match="cannot be written: ") as told:
                    await ledger.write(entry())
            finally:
                postgres_server.start()
            await ledger.write(entry())
        return str(told.value)

    assert "postgres" in asyncio.run(write())
    assert len(rows(postgres)) == 1


def test_when_a_commit_does_not_return_writers_are_told_that_it_may_still_be_written(postgres_server, postgres):
    """The database waits for a synchronous standby that is away."""

    def set_standby(name: str) -> None:
        with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            connection.execute("SELECT pg_reload_conf()")

    def wait_for_standby() -> bool:
        with psycopg.connect(postgres_server.url("postgres")) as connection:
            return connection.execute("SHOW synchronous_standby_names").fetchone() == ("away",)

    async def write():
        async with opened(postgres, patience=1.0) as ledger:
            await ledger.write(entry())
            await asyncio.to_thread(set_standby, "away")
            try:
                await asyncio.to_thread(wait_until, wait_for_standby)
                with pytest.raises(LedgerError, match="has not confirmed it for 1 s, and may still write it"):
                    await ledger.write(entry())
            finally:
                await asyncio.to_thread(set_standby, "")
            await ledger.write(entry())

    asyncio.run(write())
    assert len(rows(postgres)) == 3


def test_a_full_disk_is_told_and_passes(tmp_path):
    address = str(tmp_path / "ledger.db")

    async def write():
        async with opened(address, patience=0) as ledger:
            await ledger.write(entry())
            limit = [text("PRAGMA max_page_count = 1"), text("PRAGMA max_page_count = 1000000")]
            with ledger.engine.connect() as connection:
                connection.execute(limit[0])
            with pytest.raises(LedgerError, match=r"ledger\.db: cannot be written: database or disk is full"):
                await asyncio.gather(*(ledger.write(entry()) for _ in range(500)))
            with ledger.engine.connect() as connection:
                connection.execute(limit[1])
            await ledger.write(entry())

    asyncio.run(write())
    assert len(rows(address)) == 2


def test_a_locked_file_is_told_and_passes(tmp_path):
    address = str(tmp_path / "ledger.db")

    async def write():
        async with opened(address, patience=0) as ledger:
            other = sqlite3.connect(address, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerError, match="cannot be written: database is locked"):
                await ledger.write(entry())
            other.execute("ROLLBACK")
            other.close()
            await ledger.write(entry())

    asyncio.run(write())
    assert len(rows(address)) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mysql://user:secret@host/db", "a ledger is a file"),
        ("sqlite://", "a ledger is a file"),
        ("postgresql://user:secret@host:port/db", "is no URL"),
        ("/nowhere/at/all/ledger.db", "there is no folder /nowhere/at/all"),
    ],
)
def test_an_address_that_is_none_is_named_without_its_password(address, message):
    with pytest.raises(LedgerError, match=message) as told:
        connect(address)
    assert "secret" not in str(told.value)


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "ledger.db"
    file.write_bytes(b"something else" * 100)

    async def write():
        async with opened(str(file)):
            pass

    with pytest.raises(LedgerError, match=r"ledger\.db: cannot be opened: file is not a database"):
        asyncio.run(write())


def test_totals_by_key_model_and_day(ledger_address):
    cheap, dear = Price.per_million("1", "2", cached="0.5"), Price.per_million("10", "20")
    entries = [
        entry(price=cheap),
        entry(price=dear),
        entry(key="bob", time=NOON + timedelta(days=1), price=cheap),
        entry(namespace="team-b", model="other"),
        entry(status=429, outcome=Outcome.REFUSED, prompt_tokens=0, cached_tokens=0, completion_tokens=0),
        entry(time=NOON - timedelta(days=1)),
    ]
    today = int(NOON.timestamp()) // DAY * DAY

    async def read():
        async with opened(ledger_address) as ledger:
            await asyncio.gather(*map(ledger.write, entries))
            start, end = NOON, NOON + timedelta(days=2)
            by_key = await ledger.totals(TotalsQuery(start, end, by=["namespace", "key"], bucket_seconds=DAY))
            by_model = await ledger.totals(TotalsQuery(start, end, by=["model"], only={"namespace": ["team-a"]}))
            return by_key, by_model, await ledger.totals(TotalsQuery(start, NOON + timedelta(days=1)))

    by_key, by_model, together = asyncio.run(read())
    assert [(total.time, total.namespace, total.key, total.requests, total.cost) for total in by_key] == [
        # 60 prompt, 40 cached and 10 completion tokens of each
        (today, "team-a", "alice", 2, Decimal("0.0001") + Decimal("0.0012")),
        (today, "team-b", "alice", 1, 0),
        (today + DAY, "team-a", "bob", 1, Decimal("0.0001")),
    ]
    assert [(total.model, total.requests, total.prompt_tokens) for total in by_model] == [("amounts", 3, 300)]
    assert [(total.key, total.requests, total.cached_tokens, total.completion_tokens) for total in together] == [
        (None, 3, 120, 30)
    ]
    assert (by_key[0].prompt_cost, by_key[0].cached_cost) == (Decimal("0.00066"), Decimal("0.00042"))


def test_sums_of_money_are_exact_however_large(ledger_address):
    price = Price.per_million("0.000001", "1000000")

    async def read():
        async with opened(ledger_address) as ledger:
            many = [entry(completion_tokens=1 << 40, cached_tokens=0, price=price) for _ in range(20)]
            await asyncio.gather(*map(ledger.write, many))
            return await ledger.totals(TotalsQuery(NOON, NOON + timedelta(days=1)))

    (total,) = asyncio.run(read())
    assert total.cost == 20 * (1 << 40) + Decimal(20 * 100).scaleb(-12)


def test_sums_have_no_largest_number(ledger_address):
    most = (1 << 63) - 1
    tokens = {"prompt_tokens": most, "cached_tokens": most, "completion_tokens": most}

    async def read():
        async with opened(ledger_address) as ledger:
            await asyncio.gather(*(ledger.write(entry(**tokens)) for _ in range(300)), ledger.write(entry()))
            return await ledger.totals(TotalsQuery(NOON, NOON + timedelta(days=1)))

    (total,) = asyncio.run(read())
    used = total.prompt_tokens, total.cached_tokens, total.completion_tokens
    assert used == (300 * most + 100, 300 * most + 40, 300 * most + 10)


@pytest.mark.parametrize("amount", ["-1", "x", "1e7", "0.0000001", "NaN", "Infinity"])
def test_a_price_that_is_none_is_named(amount):
    with pytest.raises(ValueError, match=f"not '{amount}'"):
        Price.per_million("1", amount)


def test_the_statement_of_entries_is_compiled_once(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("compiled again")

    async def write() -> None:
        async with opened(str(tmp_path / "ledger.db")) as ledger:
            monkeypatch.setattr("rft_gateway.ledger.database.sqlite.insert", fail)
            await ledger.write(entry(id="1"))
            await ledger.write(entry(id="2"))

    asyncio.run(write())
    assert [row["id"] for row in rows(str(tmp_path / "ledger.db"))] == ["1", "2"]
