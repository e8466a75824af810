"""Writes entries, each once: those that wait become one transaction, and each caller returns when it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from rft_gateway.group_commit import CommitError, GroupCommit
from rft_gateway.ledger.database import ENTRIES, InsertOnce, LedgerError, connect, create_tables, describe, name_of
from rft_gateway.ledger.entry import Entry
from rft_gateway.ledger.totals import Total, TotalsQuery, read_totals

_MOST_ENTRIES = 1000
"""Entries of a transaction."""
_PAUSE_SECONDS = 0.05
"""Time between two attempts to open the database."""

Result = TypeVar("Result")


class Ledger:
    """Where every request is recorded. All methods belong to one event loop.

    Args:
        address: a file, for SQLite, or a URL postgresql://USER@HOST/DATABASE.
        patience: seconds during which what fails is tried again: the database may restart. After each failed attempt,
            the entries that have waited for longer fail.
    """

    def __init__(self, address: str, patience: float = 30.0):
        self.engine = connect(address)
        self._insert_once = InsertOnce(self.engine.dialect, ENTRIES)
        self._patience = patience
        self._commits = GroupCommit("ledger", self._insert, self._describe, batch_size=_MOST_ENTRIES, patience=patience)

    @property
    def failure(self) -> str | None:
        """Why the newest attempt to write failed; None when it succeeded."""
        return self._commits.failure

    @property
    def waiting(self) -> int:
        """Number of entries that wait for a transaction to begin."""
        return self._commits.waiting

    async def prepare(self) -> None:
        """Create the tables where they are missing.

        Raises:
            LedgerError: the database cannot be reached or written, or a newer gateway has made the ledger.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                return await self._commits.run(partial(create_tables, self.engine))
            except DBAPIError as error:
                if loop.time() >= deadline or not isinstance(error, OperationalError):
                    raise LedgerError(f"{name_of(self.engine)}: cannot be opened: {describe(error)}") from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def write(self, entry: Entry) -> None:
        """Return when the entry is durable. If the caller is cancelled, the entry is written all the same.

        Raises:
            LedgerError: it could not be written in time, or never can.
        """
        try:
            fault = await self._commits.submit(_row(entry))
        except CommitError as error:
            raise LedgerError(str(error)) from None
        if fault is not None:
            raise LedgerError(fault)

    async def totals(self, query: TotalsQuery) -> list[Total]:
        """Return what was used: see `read_totals`.

        Raises:
            LedgerError: the database cannot be read.
        """

        def read() -> list[Total]:
            with self.engine.connect() as connection:
                return read_totals(connection, query)

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
        await self._commits.close()
        self.engine.dispose()

    def _insert(self, rows: list[dict[str, Any]]) -> list[str | None]:
        """Insert rows in one transaction, and return for each why it never can be in the ledger, or None."""
        try:
            with self.engine.begin() as connection:
                self._insert_once.execute(connection, rows)
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

    def _describe(self, error: Exception) -> str:
        return f"{name_of(self.engine)}: cannot be written: {describe(error)}"


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
