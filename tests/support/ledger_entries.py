"""Entries of the ledger for tests, and what a ledger contains."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from rft_gateway.ledger import Entry, Outcome, make_id
from rft_gateway.ledger.database import ENTRIES, connect

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)


def entry(**changes: Any) -> Entry:
    values = {
        "id": make_id(changes.get("time", NOON)), "time": NOON, "namespace": "team-a", "key": "alice",
        "model": "amounts", "base": "smollm2", "prompt_tokens": 100, "cached_tokens": 40, "completion_tokens": 10,
        "cold_start_seconds": 0.0, "duration_seconds": 0.5, "status": 200, "outcome": Outcome.ANSWERED,
    }  # fmt: skip
    return Entry(**{**values, **changes})


def rows(address: str) -> list[dict[str, Any]]:
    """All entries of a ledger, in the order of their ids."""
    engine = connect(address)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(ENTRIES).order_by(ENTRIES.c.id)).mappings()]
    engine.dispose()
    return found
