"""Slots, for which namespaces take turns: what limits how much the operator does at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

WORKING = 24
"""Reconciliations that work at the same time; one that waits for pods does not count."""
WORKING_SHARE = 16
"""Those of one namespace, which are enough to keep an API server busy that is slow to answer."""
STARTED = 256
"""Reconciliations that have started and not ended, with those that wait for pods. Each keeps its object in memory."""
CONNECTIONS = 256
"""Connections to pods at the same time: a process may have 1,024 open files on many systems."""


class Slots:
    """Slots, each of which is held for a namespace. Namespaces that wait take turns.

    So a thousand that wait for one namespace delay another by one, and no namespace ever holds more than its share.

    Args:
        number: the number of slots.
        share: the largest number of slots that one namespace holds.
    """

    def __init__(self, number: int, share: int):
        self._free = number
        self._share = share
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[Callable[[], bool]]] = {}
        """What waits, by namespace. The first namespace is the next one; no queue is empty."""

    def request(self, namespace: str, start: Callable[[], bool]) -> None:
        """Call `start` when there is a slot and the turn of the namespace has come, which may be now.

        Args:
            namespace: the namespace.
            start: takes the slot and returns True, or returns False when the slot is no longer needed.
        """
        self._waiting.setdefault(namespace, deque()).append(start)
        self._hand_out()

    async def take(self, namespace: str) -> None:
        """Wait for a slot, and take it."""
        turn = asyncio.get_running_loop().create_future()

        def start() -> bool:
            if turn.done():
                return False  # the caller was cancelled while it waited
            turn.set_result(None)
            return True

        self.request(namespace, start)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(namespace)
            raise

    def give_back(self, namespace: str) -> None:
        """Give back a slot that was held for a namespace."""
        self._free += 1
        self._held[namespace] -= 1
        if not self._held[namespace]:
            del self._held[namespace]
        self._hand_out()

    @asynccontextmanager
    async def held(self, namespace: str) -> AsyncIterator[None]:
        """Hold a slot within this context."""
        await self.take(namespace)
        try:
            yield
        finally:
            self.give_back(namespace)

    @asynccontextmanager
    async def lent(self, namespace: str) -> AsyncIterator[None]:
        """Leave the slot of the caller to others inside this context; at its end the caller waits for another."""
        self.give_back(namespace)
        try:
            yield
        finally:
            await self.take(namespace)

    def _hand_out(self) -> None:
        while self._free and (namespace := self._next()) is not None:
            waiting = self._waiting.pop(namespace)
            start = waiting.popleft()
            if waiting:
                self._waiting[namespace] = waiting  # behind all others
            if start():
                self._free -= 1
                self._held[namespace] += 1

    def _next(self) -> str | None:
        """Return the next namespace that waits and holds less than its share."""
        return next((namespace for namespace in self._waiting if self._held[namespace] < self._share), None)


class Limits:
    """How much the operator does at the same time.

    A pod can take as long to answer as its image likes. So a reconciliation that waits for pods does not count as
    working: a few such pods of one tenant would otherwise stop all its reconciliations, and those of others.
    """

    def __init__(self) -> None:
        self.working = Slots(WORKING, share=WORKING_SHARE)
        """For reconciliations that work: compute, and wait for the API server."""
        self.started = Slots(STARTED, share=STARTED // 4)
        """For reconciliations from their start to their end."""
        self.connections = Slots(CONNECTIONS, share=CONNECTIONS // 4)
        """For connections to pods."""
