"""The ledger's database: how to connect to SQLite or PostgreSQL, its tables, and the version of its schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Double,
    Engine,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

SCHEMA_VERSION = 1
"""A change of the tables raises it."""
_SCHEMA_LOCK = 0x7266_7467
"""Number of PostgreSQL's lock under which gateways that start at the same time create the tables one by one."""
_POSTGRESQL = "postgresql+psycopg"

METADATA = MetaData()
VERSIONS = Table(
    "ledger_schema",
    METADATA,
    Column("id", Integer, primary_key=True),  # the table has one row
    Column("version", Integer, nullable=False),
)
ENTRIES = Table(
    "ledger_entries",
    METADATA,
    Column("id", Text, primary_key=True),
    # milliseconds since 1970 (UTC): both databases divide them into minutes, hours and days in the same way
    Column("time", BigInteger, nullable=False, index=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("prompt_price", BigInteger, nullable=False),
    Column("cached_price", BigInteger, nullable=False),
    Column("completion_price", BigInteger, nullable=False),
    Column("cold_start_seconds", Double, nullable=False),
    Column("duration_seconds", Double, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    sqlite_with_rowid=False,
)


class LedgerError(Exception):
    """The ledger cannot be opened, written or read; the message says why."""


def connect(address: str, *, must_exist: bool = False) -> Engine:
    """Return an engine for a file of SQLite or a URL of PostgreSQL. Nothing is opened yet.

    Raises:
        LedgerError: the address is neither, or a folder, or `must_exist` and there is no such file.
    """
    url = _parse(address)
    if url.drivername == _POSTGRESQL:
        try:
            # a server that vanishes is noticed within seconds
            engine = create_engine(url, connect_args={"connect_timeout": 5, "tcp_user_timeout": 10_000})
        except ModuleNotFoundError:
            message = "a ledger in PostgreSQL needs the package psycopg: install rft-gateway[postgresql]"
            raise LedgerError(message) from None
        event.listen(engine, "connect", _limit_locks)
        return engine
    file = Path(str(url.database))
    if not file.parent.is_dir():
        raise LedgerError(f"{file}: there is no folder {file.parent}")
    if file.is_dir():
        raise LedgerError(f"{file}: is a folder; name the file of the ledger, such as {file / 'ledger.db'}")
    if must_exist and not file.is_file():
        raise LedgerError(f"{file}: there is no such file")
    engine = create_engine(url, connect_args={"timeout": 1.0})
    event.listen(engine, "connect", _make_durable)
    return engine


def _parse(address: str) -> URL:
    try:
        url = make_url(address) if "://" in address else URL.create("sqlite", database=address)
    except (ArgumentError, ValueError):
        raise LedgerError("the address of the ledger is no URL") from None  # it may contain a password
    if url.drivername in ("postgres", "postgresql", _POSTGRESQL):
        return url.set(drivername=_POSTGRESQL)
    if url.drivername != "sqlite" or not url.database or url.database == ":memory:":
        raise LedgerError(f"{url.drivername}: a ledger is a file (of SQLite) or a URL postgresql://USER@HOST/DATABASE")
    return url


def _limit_locks(connection: Any, _record: object) -> None:
    # a lock that somebody else holds must not hold up all answers
    connection.execute("SET lock_timeout = '5s'")
    connection.commit()


def _make_durable(connection: Any, _record: object) -> None:
    # With FULL, a transaction is on the disk when its commit returns; readers of a WAL do not wait for the writer.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def create_tables(engine: Engine) -> None:
    """Create the tables where they are missing; several gateways may do so at the same time.

    Raises:
        LedgerError: a newer gateway has made this ledger.
    """
    with engine.begin() as connection:
        lock_schema(connection)
        create_missing(connection, VERSIONS)
        InsertOnce(engine.dialect, VERSIONS).execute(connection, [{"id": 1, "version": SCHEMA_VERSION}])
        check_version(connection)
        create_missing(connection, ENTRIES)


def lock_schema(connection: Connection) -> None:
    """Have gateways that start at the same time create tables one by one, until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))


def create_missing(connection: Connection, table: Table) -> None:
    """Create a table and its indexes where they are missing."""
    connection.execute(CreateTable(table, if_not_exists=True))
    for index in table.indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))


def check_version(connection: Connection) -> None:
    """Raise LedgerError when the ledger has a schema that this program does not know."""
    version = connection.execute(select(VERSIONS.c.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{name_of(connection.engine)}: the ledger's schema has version {version}, and this program knows versions "
            f"up to {SCHEMA_VERSION}: use the version of rft-operator that has made the ledger, or a newer one"
        )


class InsertOnce:
    """The statement that inserts rows, except for those whose id is there already.

    It is compiled once: otherwise that would take as long as everything else for a row.

    Args:
        dialect: that of the database.
        table: the table, with a column `id`.
    """

    def __init__(self, dialect: Dialect, table: Table):
        insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
        compiled = insert(table).on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect)
        self._text = str(compiled)
        self._names = compiled.positiontup
        """The columns in the order of the parameters; None where they have names."""

    def execute(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Insert rows, each of which has all columns."""
        names = self._names
        parameters = rows if names is None else [tuple(row[name] for name in names) for row in rows]
        connection.exec_driver_sql(self._text, parameters)


def name_of(engine: Engine) -> str:
    """Return the file or the address of a ledger, without its password."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)


def describe(error: BaseException) -> str:
    """Return what the database says about its error, in one line."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return " ".join(str(cause).split()) or type(cause).__name__
