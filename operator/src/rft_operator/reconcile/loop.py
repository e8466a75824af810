"""The reconcile loop: a queue of resources, and the tasks that reconcile them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rft_operator.kube.cluster import Conflict, Unavailable
from rft_operator.kube.store import Key
from rft_operator.pods.slots import Slots
from rft_operator.reconcile.fair_queue import FairQueue

log = logging.getLogger(__name__)

MINIMUM_INTERVAL_SECONDS = 0.1
"""Shortest time between two reconciliations of a resource.

Changes come in bursts, and the operator does not compete with a program that reverts its writes.
"""
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0


Reconcile = Callable[[Key], Awaitable[float | None]]
"""Reconciles one resource; returns the seconds after which to reconcile it again, or None to wait for a change."""


class Loop:
    """Reconciles resources, never the same one twice at the same time.

    A reconciliation looks at the whole state, so it does not matter how often a resource was enqueued, or why. A
    resource that is enqueued while it is reconciled, or shortly afterwards, is reconciled once more. A reconciliation
    that fails is repeated with exponential backoff.

    Args:
        slots: how many reconciliations work at the same time.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._queue = FairQueue()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._active = False

    def enqueue(self, key: Key) -> None:
        """Have a resource reconciled soon. Does nothing before `run`, whose caller enqueues all resources anyway."""
        if not self._active:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.put(key)

    def retry_failed(self) -> None:
        """Reconcile the resources whose last reconciliation failed now, and not at the end of their backoff."""
        for key in list(self._failures):
            self.enqueue(key)

    async def run(self, reconcile: Reconcile) -> None:
        """Reconcile enqueued resources until the task is cancelled."""
        self._active = True
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    # The slot comes first: whose turn it is, is decided when there is a slot.
                    await self._slots.take()
                    key = await self._queue.get()
                    self._queued.discard(key)
                    self._running.add(key)
                    tasks.create_task(self._work(reconcile, key))
        finally:
            self._active = False

    async def _work(self, reconcile: Reconcile, key: Key) -> None:
        try:
            delay = await self._reconcile(reconcile, key)
        finally:
            self._slots.give_back()
        asyncio.get_running_loop().call_later(MINIMUM_INTERVAL_SECONDS, self._finish, key, delay)

    def _finish(self, key: Key, delay: float | None) -> None:
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.enqueue(key)
        elif delay is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay, self._expire, key)

    def _expire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.enqueue(key)

    async def _reconcile(self, reconcile: Reconcile, key: Key) -> float | None:
        """Reconcile a resource; return the delay until the next reconciliation, which is the backoff after an error."""
        try:
            delay = await reconcile(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
            trace = None if isinstance(error, (Conflict, Unavailable)) else error
            log.warning(
                "%s %s/%s: reconciling failed, trying again in %.1f s: %s", *key, backoff, error, exc_info=trace
            )
            return backoff
        self._failures.pop(key, None)
        return delay
