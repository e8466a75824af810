"""Write entries with group commit: all that wait become one transaction, and each caller returns when it is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from rft_gateway.ledger.database import ENTRIES, LedgerError, connect, create_tables, describe, insert_once, name_of
from rft_gateway.ledger.entry import Entry
from rft_gateway.ledger.totals import Total, read_totals

_MOST_ENTRIES = 1000
"""Entries of a transaction."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts while the database fails."""

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting:
    row: dict[str, Any]
    written: asyncio.Future[None]
    deadline: float


class Ledger:
    """Where every request is recorded. All methods belong to one event loop.

    Args:
        address: a file, for SQLite, or a URL postgresql://USER@HOST/DATABASE.
        patience: seconds during which what fails is tried again: the database may restart. After each failed attempt,
            the entries that have waited for longer fail.
    """

    def __init__(self, address: str, patience: float = 30.0):
        self.engine = connect(address)
        self.failure: str | None = None
        """Why the newest attempt to write failed; None when it succeeded."""
        self._patience = patience
        self._waiting: list[_Waiting] = []
        self._committer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of entries that wait for a transaction to begin."""
        return len(self._waiting)

    async def prepare(self) -> None:
        """Create the tables where they are missing.

        Raises:
            LedgerError: the database cannot be reached or written, or a newer gateway has made the ledger.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                return await self._in_thread(partial(create_tables, self.engine))
            except DBAPIError as error:
                if loop.time() >= deadline or not isinstance(error, OperationalError):
                    raise LedgerError(f"{name_of(self.engine)}: cannot be opened: {describe(error)}") from error
            await asyncio.sleep(_SHORTEST_PAUSE)

    async def write(self, entry: Entry) -> None:
        """Return when the entry is durable. If the caller is cancelled, the entry is written all the same.

        Raises:
            LedgerError: it could not be written in time, or never can.
        """
        if self._closed:
            raise LedgerError("the ledger is closed")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(_row(entry), loop.create_future(), loop.time() + self._patience)
        self._waiting.append(waiting)
        if self._committer is None or self._committer.done():
            self._committer = loop.create_task(self._commit_all())
        await waiting.written

    async def totals(
        self,
        start: datetime,
        end: datetime,
        *,
        by: Iterable[str] = (),
        bucket_seconds: int | None = None,
        only: Mapping[str, Iterable[str]] | None = None,
    ) -> list[Total]:
        """Return what was used from `start` to before `end`: see `read_totals`.

        Raises:
            LedgerError: the database cannot be read.
        """

        def read() -> list[Total]:
            with self.engine.connect() as connection:
                return read_totals(connection, start, end, by=by, bucket_seconds=bucket_seconds, only=only)

        return await self._read(read)

    async def model_of(self, request_id: str, namespace: str) -> str | None:
        """Return the model of a request; None when the namespace has no request with this id.

        Raises:
            LedgerError: the database cannot be read.
        """
        columns = ENTRIES.c
        query = select(columns.model).where(columns.id == request_id, columns.namespace == namespace)

        def read() -> str | None:
            with self.engine.connect() as connection:
                return connection.execute(query).scalar()

        return await self._read(read)

    async def close(self) -> None:
        """Write what waits, and close the connections."""
        self._closed = True
        if self._committer is not None:
            await self._committer
        self._thread.shutdown()
        self.engine.dispose()

    async def _commit_all(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _SHORTEST_PAUSE
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST_ENTRIES], self._waiting[_MOST_ENTRIES:]
            try:
                faults = await self._in_thread(partial(self._insert, [each.row for each in batch]))
            except Exception as error:  # of whatever kind: nobody else would tell those who wait
                self._note_failure(f"{name_of(self.engine)}: cannot be written: {describe(error)}")
                now = loop.time()
                for each in batch:
                    if each.deadline <= now:
                        _settle(each, self.failure)
                self._waiting = [each for each in batch if each.deadline > now] + self._waiting
                if self._waiting:
                    await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._note_failure(None)
            pause = _SHORTEST_PAUSE
            for each, fault in zip(batch, faults, strict=True):
                _settle(each, fault)

    def _note_failure(self, failure: str | None) -> None:
        if failure and not self.failure:
            _LOG.warning("ledger: %s", failure)
        elif self.failure and not failure:
            _LOG.warning("ledger: is written again")
        self.failure = failure

    def _insert(self, rows: list[dict[str, Any]]) -> list[str | None]:
        """Insert rows in one transaction, and return for each why it never can be in the ledger, or None."""
        try:
            with self.engine.begin() as connection:
                connection.execute(insert_once(connection, ENTRIES), rows)
        except (DataError, IntegrityError, OverflowError, ValueError) as error:
            # The database refuses a value. It must not take the other rows with it.
            if len(rows) == 1:
                return [f"the ledger cannot hold this entry: {describe(error)}"]
            return [fault for row in rows for fault in self._insert([row])]
        return [None] * len(rows)

    async def _read(self, read: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(read)
        except SQLAlchemyError as error:
            raise LedgerError(f"{name_of(self.engine)}: cannot be read: {describe(error)}") from error

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _settle(waiting: _Waiting, fault: str | None) -> None:
    if waiting.written.done():  # its caller was cancelled
        return
    if fault is None:
        waiting.written.set_result(None)
    else:
        waiting.written.set_exception(LedgerError(fault))


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "time": int(entry.time.timestamp() * 1000),
        "namespace": entry.namespace,
        "key": entry.key,
        "model": entry.model,
        "base": entry.base,
        "prompt_tokens": entry.prompt_tokens,
        "cached_tokens": entry.cached_tokens,
        "completion_tokens": entry.completion_tokens,
        "prompt_price": entry.price.prompt,
        "cached_price": entry.price.cached,
        "completion_price": entry.price.completion,
        "cold_start_seconds": entry.cold_start_seconds,
        "duration_seconds": entry.duration_seconds,
        "status": entry.status,
        "outcome": entry.outcome.value,
    }
