"""The tables of files in the ledger's database, and how they are read and written: one short transaction at a time.

Content is written before its row, and removed after it. What a killed gateway leaves is in the table of leftovers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, SmallInteger, Table, Text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from rft_gateway.files.errors import unavailable
from rft_gateway.ledger.database import create_missing, describe, lock_schema, name_of

_THREADS = 4
"""Transactions at the same time; each takes milliseconds."""
_PATIENCE_SECONDS = 5.0
"""Time in which a transaction is tried again: SQLite has one writer, and PostgreSQL may restart."""
_PAUSE_SECONDS = 0.05
_logger = logging.getLogger(__name__)

METADATA = MetaData()
FILES = Table(
    "gateway_files",
    METADATA,
    Column("id", Text, primary_key=True),  # later ones sort after earlier ones
    Column("namespace", Text, nullable=False, index=True),
    Column("key", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("uri", Text, nullable=False),
    # milliseconds since 1970, as all times here
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, index=True),
)
UPLOADS = Table(
    "gateway_uploads",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False, index=True),
    Column("key", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, index=True),
    Column("expires_after", BigInteger),
    Column("status", Text, nullable=False),
    Column("file", Text),
)
PARTS = Table(
    "gateway_upload_parts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("upload", Text, nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("uri", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)
LEFTOVERS = Table(
    "gateway_file_leftovers",
    METADATA,
    Column("uri", Text, primary_key=True),
    # when the content is to be removed, if nothing has claimed or forgotten it before
    Column("due", BigInteger, nullable=False, index=True),
    # 1 when nobody may make a file of the content any more
    Column("claimed", SmallInteger, nullable=False),
)

Result = TypeVar("Result")


class Database:
    """Where rows of files are. All methods belong to one event loop.

    Args:
        engine: the ledger's.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._threads = ThreadPoolExecutor(_THREADS, "files-database")
        self._failure = ""

    async def prepare(self) -> None:
        """Create the tables where they are missing.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        await self.run(_create_tables)

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Do work in a transaction, which ends with it.

        Raises:
            ApiError: 503 when the database cannot be used; whatever the work raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[Connection], Result]) -> Result:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                with self._engine.begin() as connection:
                    result = work(connection)
            except SQLAlchemyError as error:
                if isinstance(error, OperationalError) and time.monotonic() < deadline:
                    time.sleep(_PAUSE_SECONDS)
                    continue
                self._note(f"{name_of(self._engine)}: files cannot be read or written: {describe(error)}")
                raise unavailable() from error
            self._note("")
            return result

    def _note(self, failure: str) -> None:
        """Log a failure once."""
        if failure and failure != self._failure:
            _logger.warning("%s", failure)
        self._failure = failure


def now_milliseconds() -> int:
    """Return the time as the tables have it."""
    return int(time.time() * 1000)


def _create_tables(connection: Connection) -> None:
    lock_schema(connection)
    for table in METADATA.sorted_tables:
        create_missing(connection, table)
