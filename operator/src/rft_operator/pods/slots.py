"""The number of reconciliations that work at the same time; one that waits for pods does not count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SLOTS = 16
"""Reconciliations that work at the same time."""


class Slots:
    """Slots for reconciliations. A reconciliation takes one, and lends it to others while it waits for pods.

    A pod can take as long to answer as its image likes. With 16 slots that were kept meanwhile, 16 such pods of one
    tenant would stop the reconciliations of all others.
    """

    def __init__(self, number: int = SLOTS):
        self._semaphore = asyncio.Semaphore(number)

    async def take(self) -> None:
        """Wait for a free slot, and take it."""
        await self._semaphore.acquire()

    def give_back(self) -> None:
        """Give a slot back."""
        self._semaphore.release()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Within this context, the slot of the caller belongs to others; at its end the caller waits for a free one."""
        self.give_back()
        try:
            yield
        finally:
            await self.take()
