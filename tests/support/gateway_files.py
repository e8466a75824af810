"""A gateway that keeps files, and rows of training data, for tests of its API of files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from sqlalchemy import create_engine, text

from support.gateway import Gateway
from support.patience import PATIENCE_SECONDS, wait_until


def row(number: int, size: int = 0) -> dict[str, Any]:
    """A row for reinforcement fine-tuning."""
    return {"messages": [{"role": "user", "content": f"{number} {'x' * size}"}], "reference_answer": str(number)}


def jsonl(rows: Iterable[object]) -> bytes:
    """Rows as JSONL."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in rows)


def data(count: int = 3, size: int = 0) -> bytes:
    """A file of training data."""
    return jsonl(row(number, size) for number in range(count))


@dataclass
class Stored:
    """Where a gateway keeps files, as this machine sees it."""

    arguments: tuple[str, ...]
    """For the gateway."""
    environment: dict[str, str]
    folder: Path
    """The folder, or the one in which the S3 server has its bucket."""
    staging: Path
    """The folder of files on their way."""
    uri: str
    database: str
    """The ledger's, for SQLAlchemy."""

    def contents(self) -> dict[str, bytes]:
        """What is stored, by name; without files on their way."""
        contents = {}
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder) / name for name in names):
                # A bucket of the S3 server has parts of unfinished uploads in a folder of its own.
                if not path.is_relative_to(self.staging) and ".sgwtmp" not in path.parts:
                    with suppress(FileNotFoundError):  # the gateway removes files meanwhile
                        contents[path.relative_to(self.folder).as_posix()] = path.read_bytes()
        return contents

    def incoming(self) -> list[Path]:
        """Files on their way."""
        return list(self.staging.glob("*"))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table of the ledger's database."""
        return self.execute(f"SELECT * FROM {table}")

    def execute(self, statement: str) -> list[dict[str, Any]]:
        """Executes SQL; returns the rows of a query."""
        engine = create_engine(self.database)
        try:
            with engine.begin() as connection:
                result = connection.execute(text(statement))
                return [dict(row) for row in result.mappings()] if result.returns_rows else []
        finally:
            engine.dispose()

    def clear(self) -> None:
        """Removes everything."""
        for table in ("gateway_files", "gateway_uploads", "gateway_upload_parts", "gateway_file_leftovers"):
            self.execute(f"DELETE FROM {table}")
        for name in self.contents():
            (self.folder / name).unlink(missing_ok=True)

    def wait_until_only_files_are_left(self) -> None:
        """Waits until nothing is stored beside the content of files."""

        def is_clean() -> bool:
            files = {row["uri"].removeprefix(f"{self.uri}/") for row in self.rows("gateway_files")}
            return set(self.contents()) == files and not self.rows("gateway_file_leftovers") and not self.incoming()

        wait_until(is_clean, lambda: (self.contents().keys(), self.rows("gateway_file_leftovers"), self.incoming()))


@contextmanager
def openai_client(gateway: Gateway, token: str | None = None) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=token or gateway.token, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


@contextmanager
def connect(gateway: Gateway, token: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, as soon as the gateway knows its key."""
    with openai_client(gateway, token) as client:
        wait_until(lambda: knows(client))
        yield client


def knows(client: openai.OpenAI) -> bool:
    """Whether the gateway knows the key of a client."""
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def sha256(content: bytes) -> str:
    """The digest of a content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
