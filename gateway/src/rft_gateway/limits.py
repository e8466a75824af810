"""How much a key may use: requests and tokens a minute, tokens a day and a month, requests at the same time.

Days and months are those of UTC. Tokens are reserved before a request by an estimate, and corrected when those of its
answer have been counted. Nothing here waits, or reads a clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import TracebackType
from typing import Self

from rft_api.gateway_key import Key
from rft_gateway.errors import ApiError
from rft_gateway.minute import Entry, Kind, Minute

_PARALLEL_WAIT = 1.0
"""Seconds after which to try again when too many requests run; nobody knows when one of them ends."""

_KEPT_PERIODS = 3
"""Days, and months, whose tokens are known: a clock that was wrong comes back to the day that it had left, and may have
reached the end of the wrong day meanwhile."""

_Identity = tuple[str, str]
"""Namespace and name of a key."""


@dataclass(slots=True)
class _Period:
    """A day or a month, and the tokens of all keys in it."""

    first: date
    """Its first day."""
    start: float
    """Its beginning, in seconds since 1970."""
    end: float
    """Its end, in seconds since 1970."""
    tokens: dict[_Identity, int]

    def add(self, identity: _Identity, tokens: int) -> None:
        self.tokens[identity] = self.tokens.get(identity, 0) + tokens


@dataclass(slots=True)
class _Gauge:
    """A limit of a key, and what counts towards it."""

    kind: Kind
    words: str
    """The limit in words, as in OpenAI's messages."""
    limit: int
    used: int
    span: Minute | _Period

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    def seconds_until_reset(self, now: float) -> float:
        """Return after how many seconds nothing is used, if nothing is added."""
        if isinstance(self.span, Minute):
            return self.span.seconds_until_reset(now, self.kind)
        return self.span.end - now if self.used else 0.0

    def seconds_until_fits(self, now: float, amount: int) -> float:
        """Return after how many seconds an amount fits that does not fit now; infinity if it is above the limit."""
        if amount > self.limit:
            return math.inf
        if isinstance(self.span, Minute):
            return self.span.seconds_until_less(now, self.kind, self.used + amount - self.limit)
        return self.span.end - now


@dataclass(slots=True)
class _Refusal:
    """A limit that a request would exceed."""

    kind: Kind
    message: str
    wait: float
    """Seconds after which to try again; infinity if that would not help."""


@dataclass(slots=True)
class _Reservation:
    """Where the tokens of a request are reserved: in its minute, if that is limited, and in its day and month."""

    identity: _Identity
    tokens: int
    day: _Period
    month: _Period
    minute: Minute | None = None
    entry: Entry | None = None


class Admission:
    """A request that was let in. As a context manager, it is released on every way out."""

    __slots__ = ("_is_released", "_is_settled", "_limiter", "_reservation", "headers")

    def __init__(self, limiter: Limiter, reservation: _Reservation, headers: dict[str, str]):
        """Take what `Limiter.admit` has reserved."""
        self.headers = headers
        """Headers of the answer: what the key has left after this request."""
        self._limiter = limiter
        self._reservation = reservation
        self._is_settled = self._is_released = False

    def settle(self, now: float, tokens: int) -> None:
        """Replace the estimate by the tokens that were used, also more of them. Only the first call counts.

        Args:
            now: seconds since 1970.
            tokens: those of the prompt and of the completions.
        """
        if not self._is_settled:
            self._is_settled = True
            self._limiter._settle(self._reservation, now, tokens)

    def release(self) -> None:
        """End the request; if it was not settled, it has used no tokens. Only the first call counts."""
        if not self._is_released:
            self._is_released = True
            self.settle(0.0, 0)  # tokens are only given back, for which the time does not matter
            self._limiter._end(self._reservation.identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """Lets requests in or refuses them, by the limits of their keys.

    Its memory is bounded by the keys that have had a request in three months, with a number for each of these months
    and of three days, and by the requests of the last minute.
    """

    def __init__(self, now: float):
        """Begin at a time, in seconds since 1970, with nothing used."""
        today = _day_of(now)
        self._day = _day(today)
        self._month = _month(today)
        self._days = {self._day.first: self._day}
        self._months = {self._month.first: self._month}
        self._minutes: OrderedDict[_Identity, Minute] = OrderedDict()
        """The minutes of keys that have a limit for them, the one that was used last at the end."""
        self._running: dict[_Identity, int] = {}

    def restore(self, usage: Iterable[tuple[str, str, date, int]]) -> None:
        """Add what was used before the start, as the ledger has it.

        Args:
            usage: namespace and name of a key, a day (UTC), and the tokens of the requests that arrived on it. Days
                outside of the current month are ignored.
        """
        for namespace, name, day, tokens in usage:
            if day == self._day.first:
                self._day.add((namespace, name), tokens)
            if day.replace(day=1) == self._month.first:
                self._month.add((namespace, name), tokens)

    def admit(self, key: Key, now: float, estimate: int) -> Admission:
        """Let a request in, and reserve its tokens.

        Args:
            key: the key that asks.
            now: seconds since 1970.
            estimate: the tokens that the request will use, as far as they are known: those of its prompt, and those of
                its completions if it limits them; 0 for what uses none, which no limit of tokens refuses.

        Raises:
            ApiError: 429 when it would exceed a limit; then nothing is counted.
        """
        identity, parallel = (key.namespace, key.name), key.limits.parallel_requests
        self._begin(now)
        minute = self._minute_of(key, now)
        gauges = list(self._gauges(key, minute))
        refusals = [
            _refuse(key, gauge, now, amount)
            for gauge in gauges
            if (amount := _amount(gauge, estimate)) > gauge.remaining
        ]
        running = self._running.get(identity, 0)
        if parallel is not None and running >= parallel:
            refusals.append(_refuse_parallel(key, parallel, running))
        if refusals:
            raise _error(refusals, _headers(gauges, now))
        reservation = _Reservation(identity, estimate, self._day, self._month, minute)
        if minute is not None:
            reservation.entry = minute.add(now, 1, estimate)
        self._day.add(identity, estimate)
        self._month.add(identity, estimate)
        self._running[identity] = running + 1
        for gauge in gauges:
            gauge.used += _amount(gauge, estimate)
        return Admission(self, reservation, _headers(gauges, now))

    def budget_shares(self, key: Key, now: float) -> Iterator[tuple[str, float]]:
        """Yield the period, day or month, of each such limit of a key, and the share of its tokens that is used.

        Tokens that requests have reserved count as used. Longer answers than were reserved make a share larger than 1.

        Args:
            key: the key.
            now: seconds since 1970.
        """
        self._begin(now)
        limits, identity = key.limits, (key.namespace, key.name)
        for period, limit, span in (
            ("day", limits.tokens_per_day, self._day),
            ("month", limits.tokens_per_month, self._month),
        ):
            if limit is not None:
                yield period, span.tokens.get(identity, 0) / limit

    def _begin(self, now: float) -> None:
        """Count for the day and month of the time, and forget the minutes of keys that have used nothing.

        They may be those before the present ones: a clock can be set back.
        """
        if not self._day.start <= now < self._day.end:
            today = _day_of(now)
            self._day = _chosen(self._days, today, _day)
            self._month = _chosen(self._months, today.replace(day=1), _month)
        while self._minutes and next(iter(self._minutes.values())).is_over(now):
            self._minutes.popitem(last=False)

    def _minute_of(self, key: Key, now: float) -> Minute | None:
        """Return what a key has used in the last minute; None when the key has no limit for that."""
        limits, identity = key.limits, (key.namespace, key.name)
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return None
        minute = self._minutes.setdefault(identity, Minute())
        self._minutes.move_to_end(identity)
        minute.advance(now)
        return minute

    def _gauges(self, key: Key, minute: Minute | None) -> Iterator[_Gauge]:
        limits, identity = key.limits, (key.namespace, key.name)
        if limits.requests_per_minute is not None and minute is not None:
            words = "requests per min (RPM)"
            yield _Gauge("requests", words, limits.requests_per_minute, minute.requests, minute)
        if limits.tokens_per_minute is not None and minute is not None:
            yield _Gauge("tokens", "tokens per min (TPM)", limits.tokens_per_minute, minute.tokens, minute)
        if limits.tokens_per_day is not None:
            used = self._day.tokens.get(identity, 0)
            yield _Gauge("tokens", "tokens per day (TPD)", limits.tokens_per_day, used, self._day)
        if limits.tokens_per_month is not None:
            used = self._month.tokens.get(identity, 0)
            yield _Gauge("tokens", "tokens per month", limits.tokens_per_month, used, self._month)

    def _settle(self, reservation: _Reservation, now: float, tokens: int) -> None:
        more = tokens - reservation.tokens
        reservation.day.add(reservation.identity, more)
        reservation.month.add(reservation.identity, more)
        if reservation.minute is None or reservation.entry is None:
            return
        if more < 0:
            reservation.minute.give_back(reservation.entry, -more)
        elif more:
            # The minute of the reservation may be over and forgotten.
            minute = self._minutes.setdefault(reservation.identity, reservation.minute)
            self._minutes.move_to_end(reservation.identity)
            minute.advance(now)
            minute.add(now, 0, more)

    def _end(self, identity: _Identity) -> None:
        running = self._running[identity] - 1
        if running:
            self._running[identity] = running
        else:
            del self._running[identity]


def format_duration(seconds: float) -> str:
    """Return a length of time as OpenAI's headers have it, in the form of Go: 8ms, 1.2s, 6m0s, 23h18m29.144s."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text


def _day_of(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def _day(first: date) -> _Period:
    return _Period(first, _midnight(first), _midnight(first + timedelta(days=1)), {})


def _month(day: date) -> _Period:
    first = day.replace(day=1)
    return _Period(first, _midnight(first), _midnight((first + timedelta(days=31)).replace(day=1)), {})


def _chosen(periods: dict[date, _Period], first: date, make: Callable[[date], _Period]) -> _Period:
    """Return the period with this first day, which becomes the last one; the first ones are forgotten."""
    period = periods.pop(first) if first in periods else make(first)
    periods[first] = period
    while len(periods) > _KEPT_PERIODS:
        del periods[next(iter(periods))]
    return period


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def _amount(gauge: _Gauge, tokens: int) -> int:
    return 1 if gauge.kind == "requests" else tokens


def _headers(gauges: Iterable[_Gauge], now: float) -> dict[str, str]:
    """Return OpenAI's headers. Of several limits on tokens, they tell the one of which the least is left."""
    tightest: dict[Kind, _Gauge] = {}
    for gauge in gauges:
        other = tightest.get(gauge.kind)
        if other is None or gauge.remaining < other.remaining:
            tightest[gauge.kind] = gauge
    headers = {f"x-ratelimit-limit-{kind}": str(gauge.limit) for kind, gauge in tightest.items()}
    headers |= {f"x-ratelimit-remaining-{kind}": str(gauge.remaining) for kind, gauge in tightest.items()}
    for kind, gauge in tightest.items():
        headers[f"x-ratelimit-reset-{kind}"] = format_duration(gauge.seconds_until_reset(now))
    return headers


def _refuse(key: Key, gauge: _Gauge, now: float, amount: int) -> _Refusal:
    wait = gauge.seconds_until_fits(now, amount)
    place = f"for key {key.name} in namespace {key.namespace} on {gauge.words}: Limit {gauge.limit}"
    if wait == math.inf:
        advice = "The input or output tokens must be reduced in order to run successfully."
        return _Refusal(gauge.kind, f"Request too large {place}, Requested {amount}. {advice}", wait)
    message = f"Rate limit reached {place}, Used {gauge.used}, Requested {amount}."
    return _Refusal(gauge.kind, f"{message} Please try again in {format_duration(wait)}.", wait)


def _refuse_parallel(key: Key, limit: int, running: int) -> _Refusal:
    message = (
        f"Rate limit reached for key {key.name} in namespace {key.namespace} on parallel requests: Limit {limit}, "
        f"Used {running}, Requested 1. Please try again when one of them has ended."
    )
    return _Refusal("requests", message, _PARALLEL_WAIT)


def _error(refusals: Sequence[_Refusal], headers: dict[str, str]) -> ApiError:
    """Return the error for a request that exceeds limits: it tells the one for which the client has to wait longest."""
    longest = max(refusals, key=lambda refusal: refusal.wait)
    if longest.wait == math.inf:
        headers["x-should-retry"] = "false"  # OpenAI's clients obey it
    else:
        milliseconds = max(1, math.ceil(round(longest.wait * 1000, 3)))
        headers["retry-after"] = str(math.ceil(milliseconds / 1000))
        headers["retry-after-ms"] = str(milliseconds)
    return ApiError(429, longest.message, type=longest.kind, code="rate_limit_exceeded", headers=headers)
