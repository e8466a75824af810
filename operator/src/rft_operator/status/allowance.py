"""How much the operator says about one object: a tenant must not fill the operator's log, nor etcd with events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

NAMES = 10_000
"""Number of names of which an allowance is remembered. The one that was not used for longest is forgotten first."""


class Allowance:
    """For each of many names: so many at once, and then one more in a number of seconds.

    Args:
        burst: how many at once.
        seconds: the seconds in which one more is allowed, up to `burst`.
    """

    def __init__(self, burst: int, seconds: float):
        self._burst = burst
        self._seconds = seconds
        self._spent: dict[Hashable, tuple[float, float, int]] = {}
        """By name: what is left, when that was, and how many were refused since one was allowed."""

    def take(self, name: Hashable, now: float) -> int | None:
        """Take one; return how many were refused since the last one that was allowed, or None to refuse this one."""
        left, since, refused = self._spent.pop(name, (float(self._burst), now, 0))
        left = min(left + (now - since) / self._seconds, self._burst)
        allowed = left >= 1
        self._spent[name] = (left - 1, now, 0) if allowed else (left, now, refused + 1)
        if len(self._spent) > NAMES:
            del self._spent[next(iter(self._spent))]
        return refused if allowed else None

    def is_spent(self, name: Hashable) -> bool:
        """Return whether the next one would be refused, if it came at once."""
        return name in self._spent and self._spent[name][0] < 1


class LogLimit(logging.Filter):
    """Limits the lines about each object, and about all objects of a namespace; says what it leaves out.

    It looks at records with a `key`, the Key of the object that they are about (`extra={"key": key}`). A burst is what
    the life of a job takes, or the start of a thousand jobs. After it, the lines of a namespace are some kilobytes a
    second.

    Args:
        clock: the current time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._of_object = Allowance(100, seconds=15)
        self._of_namespace = Allowance(5000, seconds=0.2)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged; one before or after others that are not, says so."""
        key = getattr(record, "key", None)
        if key is None:
            return True
        now, notes = self._clock(), []
        for allowance, name, about in (
            (self._of_object, key, f"{key.kind} {key.name}"),
            (self._of_namespace, key.namespace, f"namespace {key.namespace}"),
        ):
            refused = allowance.take(name, now)
            if refused is None:
                return False
            if refused:
                notes.append(f"{refused:,} lines about {about} were left out before this one")
            if allowance.is_spent(name):
                notes.append(f"there are too many lines about {about}; some of the next are left out")
        if notes:
            record.msg, record.args = f"{record.getMessage()} ({'; '.join(notes)})", ()
        return True
