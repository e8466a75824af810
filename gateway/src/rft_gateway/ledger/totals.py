"""Sums over the ledger: requests, tokens and money by namespace, key and model, in minutes, hours or days (UTC)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, RowMapping, func, literal_column, select

from rft_gateway.ledger.database import ENTRIES
from rft_gateway.ledger.entry import Outcome

GROUPS = ("namespace", "key", "model")
"""What totals can be grouped by."""
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_LOW_BITS = 32
"""Bits of the lower half of a number of tokens. Both halves are added separately: SQLite fails when a sum has more than
63 bits, which a few entries of a server that states nonsense would reach."""
_EXPONENT = -12
"""A price is in millionths for a million tokens."""


@dataclass(frozen=True)
class Total:
    """What a group has used; `namespace`, `key` and `model` are None where totals are not grouped by them."""

    time: int
    """Beginning of the bucket in seconds since 1970, a multiple of its length; 0 without buckets."""
    namespace: str | None
    key: str | None
    model: str | None
    requests: int = 0
    """Without those that the gateway has refused."""
    prompt_tokens: int = 0
    """With the cached ones."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_cost: Decimal = Decimal(0)
    """Of the tokens of prompts that were not cached."""
    cached_cost: Decimal = Decimal(0)
    completion_cost: Decimal = Decimal(0)

    @property
    def cost(self) -> Decimal:
        """What all tokens cost together."""
        return self.prompt_cost + self.cached_cost + self.completion_cost

    def plus(self, other: Total) -> Total:
        """Return the sum of both, for this group."""
        return replace(
            self,
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            prompt_cost=self.prompt_cost + other.prompt_cost,
            cached_cost=self.cached_cost + other.cached_cost,
            completion_cost=self.completion_cost + other.completion_cost,
        )


@dataclass(frozen=True)
class TotalsQuery:
    """A question to the ledger: what was used in a period, by whom."""

    start: datetime
    """Start of the period, with time zone."""
    end: datetime
    """End of the period, with time zone; what was used at this time does not count."""
    by: Collection[str] = ()
    """Those of GROUPS that have separate totals."""
    bucket_seconds: int | None = None
    """Length of a bucket of time; each bucket has separate totals. None for one bucket."""
    only: Mapping[str, Iterable[str]] = field(default_factory=dict)
    """For some of GROUPS, the values that count."""


def read_totals(connection: Connection, query: TotalsQuery) -> list[Total]:
    """Return what was used, in the order of time, namespace, key and model.

    Args:
        connection: to the ledger.
        query: the period and the groups.
    """
    columns, bucket_seconds = ENTRIES.c, query.bucket_seconds
    names = [name for name in GROUPS if name in query.by]
    # Grouped by price as well: the sums of tokens are multiplied here, where integers have any size.
    keys: list[ColumnElement[Any]] = [
        columns[name] for name in (*names, "prompt_price", "cached_price", "completion_price")
    ]
    if bucket_seconds:
        keys.append((columns.time // _number(bucket_seconds * 1000) * _number(bucket_seconds)).label("bucket"))
    sums = [half for name in _TOKENS for half in _halves(name)]
    statement = (
        select(*keys, func.count().label("requests"), *sums)
        .where(columns.time >= _milliseconds(query.start), columns.time < _milliseconds(query.end))
        .where(columns.outcome != Outcome.REFUSED.value)
        .where(*(columns[name].in_(list(values)) for name, values in query.only.items()))
        .group_by(*keys)
    )
    totals: dict[tuple[Any, ...], Total] = {}
    for row in connection.execute(statement).mappings():
        part = _part(row)
        group = (part.time, part.namespace, part.key, part.model)
        totals[group] = totals[group].plus(part) if group in totals else part
    return sorted(totals.values(), key=lambda total: (total.time, *(getattr(total, name) or "" for name in GROUPS)))


def _halves(name: str) -> Iterator[ColumnElement[Any]]:
    column = ENTRIES.c[name]
    yield func.sum(column.op(">>")(literal_column(str(_LOW_BITS)))).label(f"{name}_high")
    yield func.sum(column.op("&")(_number((1 << _LOW_BITS) - 1))).label(f"{name}_low")


def _part(row: RowMapping) -> Total:
    # PostgreSQL's sums are decimals
    prompt, cached, completion = ((int(row[f"{name}_high"]) << _LOW_BITS) + int(row[f"{name}_low"]) for name in _TOKENS)
    return Total(
        time=int(row.get("bucket", 0)),
        namespace=row.get("namespace"),
        key=row.get("key"),
        model=row.get("model"),
        requests=row["requests"],
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        prompt_cost=_money((prompt - cached) * row["prompt_price"]),
        cached_cost=_money(cached * row["cached_price"]),
        completion_cost=_money(completion * row["completion_price"]),
    )


def _number(value: int) -> ColumnElement[int]:
    # In the text of the query: PostgreSQL does not see that two parameters have the same value, and refuses to group.
    return literal_column(str(value), BigInteger)


def _money(amount: int) -> Decimal:
    return Decimal(amount).scaleb(_EXPONENT)


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
