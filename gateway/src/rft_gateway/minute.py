"""What a key has used in the last 60 seconds: any 60 seconds, and not a minute of the clock.

Around the end of a minute of the clock, twice as much could be used as in one; so it could with a bucket that is filled
again at a steady rate. What is used at one time counts here for 60 seconds, and up to a second more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

MINUTE = 60.0
_GRAIN = 1.0
"""Seconds of events that are kept together, so that a key's minute has some 61 entries at most."""

Kind = Literal["requests", "tokens"]


@dataclass(slots=True)
class Entry:
    """What was used within a grain of time. It counts until a minute after its last event."""

    first: float
    last: float
    requests: int = 0
    tokens: int = 0
    counts: bool = True


class Minute:
    """The requests and tokens of the last 60 seconds. Times are seconds of one clock."""

    __slots__ = ("_entries", "requests", "tokens")

    def __init__(self) -> None:
        """Begin with nothing used."""
        self._entries: deque[Entry] = deque()
        self.requests = 0
        self.tokens = 0

    def advance(self, now: float) -> None:
        """Forget what is older than a minute."""
        entries = self._entries
        if entries and entries[-1].last > now:  # the clock was set back: what was used counts for a minute from now on
            for entry in entries:
                entry.last = min(entry.last, now)
        while entries and entries[0].last + MINUTE <= now:
            entry = entries.popleft()
            entry.counts = False
            self.requests -= entry.requests
            self.tokens -= entry.tokens

    def add(self, now: float, requests: int, tokens: int) -> Entry:
        """Count what is used now, and return the entry that it is part of."""
        entry = self._entries[-1] if self._entries else None
        if entry is None or not 0 <= now - entry.first < _GRAIN:
            entry = Entry(now, now)
            self._entries.append(entry)
        entry.last = now
        entry.requests += requests
        entry.tokens += tokens
        self.requests += requests
        self.tokens += tokens
        return entry

    def give_back(self, entry: Entry, tokens: int) -> None:
        """Take tokens out of an entry, unless it does not count any more."""
        if entry.counts:
            entry.tokens -= tokens
            self.tokens -= tokens

    def is_over(self, now: float) -> bool:
        """Return whether nothing counts any more."""
        return not self._entries or self._entries[-1].last + MINUTE <= now

    def seconds_until_reset(self, now: float, kind: Kind) -> float:
        """Return after how many seconds nothing counts any more, if nothing is added."""
        newest = next((entry for entry in reversed(self._entries) if getattr(entry, kind)), None)
        return newest.last + MINUTE - now if newest else 0.0

    def seconds_until_less(self, now: float, kind: Kind, excess: int) -> float:
        """Return after how many seconds at least `excess` less counts, if nothing is added."""
        for entry in self._entries:
            excess -= getattr(entry, kind)
            if excess <= 0:
                return entry.last + MINUTE - now
        return MINUTE
