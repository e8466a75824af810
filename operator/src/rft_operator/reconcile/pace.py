"""The pace at which a namespace is looked at again without a change: the more objects it has, the less often each."""

from __future__ import annotations

import time
from collections.abc import Callable

PER_SECOND = 15.0
"""Looks a second at the objects of one namespace: those of 225 running jobs at their usual interval of 15 seconds.

A look takes some 3 ms of the operator's only thread, so one namespace takes about a twentieth of it without a change.
"""
AT_ONCE = 15
"""Looks that are due together and begin at once."""


class Pace:
    """Says when objects whose time has come are looked at.

    Changes are not delayed. What is delayed is what pods are asked without a change, and what only time changes.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._next: dict[str, float] = {}
        """When the looks that were asked for would end, one after the other, by namespace."""

    def seconds_left(self, namespace: str) -> float:
        """Take the next look of a namespace; return the seconds until it begins.

        This is the generic cell rate algorithm of ITU-T I.371, which holds one number for each namespace.
        """
        now = self._clock()
        if len(self._next) > 1000:
            self._next = {name: end for name, end in self._next.items() if end > now}
        end = max(self._next.get(namespace, now), now)
        self._next[namespace] = end + 1 / PER_SECOND
        return max(0.0, end - now - (AT_ONCE - 1) / PER_SECOND)
