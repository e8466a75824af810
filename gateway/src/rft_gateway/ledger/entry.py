"""An entry of the ledger: what one request has used, how it ended, and the price of its tokens."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum

_MILLION = 1_000_000
_HIGHEST_PRICE = 1_000_000
"""For a million tokens: what is more expensive is a mistake."""


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "Answered"
    CLIENT_LEFT = "ClientLeft"
    """The client closed its connection before the end; what was generated until then is counted."""
    GATEWAY_STOPPED = "GatewayStopped"
    """The gateway was told to stop, and the request had not ended in the time for that; counted as if its client had
    left."""
    GATEWAY_FAILED = "GatewayFailed"
    """A server has begun the request, and the gateway had no memory for its answer; counted as if its client had
    left."""
    SERVER_FAILED = "ServerFailed"
    """A server has begun the request, and failed."""
    REFUSED = "Refused"
    """The client has got an error, of the gateway or of a server, before any server has worked for the request."""


@dataclass(frozen=True)
class Price:
    """What tokens cost, in millionths of the currency for a million tokens: whole numbers, so that sums are exact."""

    prompt: int = 0
    """For tokens of the prompt that the server computed."""
    cached: int = 0
    """For tokens of the prompt that the server had in its cache."""
    completion: int = 0

    @classmethod
    def per_million(cls, prompt: str, completion: str, cached: str | None = None) -> Price:
        """Return the price from amounts for a million tokens, such as "0.15"; cached tokens cost `prompt` by default.

        Raises:
            ValueError: an amount is no number from 0 to 1000000 with at most six decimals.
        """
        return cls(_millionths(prompt), _millionths(prompt if cached is None else cached), _millionths(completion))


def _millionths(amount: str) -> int:
    try:
        value = Decimal(amount)
        if not 0 <= value <= _HIGHEST_PRICE or value * _MILLION % 1:
            raise InvalidOperation
    except InvalidOperation:
        range_ = f"a number from 0 to {_HIGHEST_PRICE} with at most six decimals"
        raise ValueError(f"the price of a million tokens must be {range_}, not {amount!r}") from None
    return int(value * _MILLION)


@dataclass(frozen=True)
class Entry:
    """One request. No text of it is kept."""

    id: str
    """From `make_id`. An entry that is written twice with the same id is in the ledger once."""
    time: datetime
    """When the request arrived."""
    namespace: str
    key: str
    """Name of the key."""
    model: str
    base: str
    """Model that the server loads, beside which it serves `model` if that is an adapter."""
    prompt_tokens: int
    """With the cached ones."""
    cached_tokens: int
    completion_tokens: int
    cold_start_seconds: float
    duration_seconds: float
    status: int
    """Status code of the answer."""
    outcome: Outcome
    price: Price = Price()
    """Kept with the entry, so that a new price does not change what was used before."""


def make_id(time: datetime) -> str:
    """Return a new id. Later ones sort after earlier ones, so that the database appends them to its index."""
    return f"{int(time.timestamp() * 1000):012x}{secrets.token_hex(10)}"
