"""The reconcile loop: a queue of resources, and the tasks that reconcile them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rft_operator.kube.cluster import Conflict, Unavailable
from rft_operator.kube.store import Key
from rft_operator.pods.slots import Limits
from rft_operator.reconcile.metered import Metered
from rft_operator.reconcile.pace import Pace

log = logging.getLogger(__name__)

MINIMUM_INTERVAL_SECONDS = 0.1
"""Shortest time between two reconciliations of a resource.

Changes come in bursts, and the operator does not compete with a program that reverts its writes.
"""
LONG_SECONDS = 0.02
"""CPU time from which on a reconciliation is long."""
REST = 10
"""After a long reconciliation a resource rests for this number of times its CPU time.

So one resource takes a tenth of the operator's only thread at most, however large it is and however often it changes:
an endpoint with a thousand adapters, each of which is a change of the endpoint.
"""
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0


Reconcile = Callable[[Key], Coroutine[Any, Any, float | None]]
"""Reconciles one resource; returns the seconds after which to reconcile it again, or None to wait for a change."""


class Loop:
    """Reconciles resources, never the same one twice at the same time.

    A reconciliation looks at the whole state, so it does not matter how often a resource was enqueued, or why. A
    resource that is enqueued while it is reconciled, or shortly afterwards, is reconciled once more. A reconciliation
    that fails is repeated with exponential backoff.

    Args:
        limits: how many reconciliations are started, and how many of them work, at the same time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pace = Pace()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._start: Callable[[Key], object] | None = None
        """Starts a reconciliation as a task; None while the loop does not run."""

    def enqueue(self, key: Key) -> None:
        """Have a resource reconciled soon. Does nothing before `run`, whose caller enqueues all resources anyway."""
        if self._start is None:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._limits.started.request(key.namespace, partial(self._begin, key))

    def retry_failed(self) -> None:
        """Reconcile the resources whose last reconciliation failed now, and not at the end of their backoff."""
        for key in list(self._failures):
            self.enqueue(key)

    async def run(self, reconcile: Reconcile) -> None:
        """Reconcile enqueued resources until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._start = lambda key: tasks.create_task(self._work(reconcile, key))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._start = None  # before the tasks are cancelled, which would let others begin

    def _begin(self, key: Key) -> bool:
        self._queued.discard(key)
        if self._start is None:
            return False
        self._running.add(key)
        self._start(key)
        return True

    async def _work(self, reconcile: Reconcile, key: Key) -> None:
        try:
            async with self._limits.working.held(key.namespace):
                metered = Metered(self._reconcile(reconcile, key))
                delay = await metered
        finally:
            self._limits.started.give_back(key.namespace)
        asyncio.get_running_loop().call_later(rest_seconds(metered.seconds), self._finish, key, delay)

    def _finish(self, key: Key, delay: float | None) -> None:
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.enqueue(key)
        elif delay == 0:
            self.enqueue(key)
        elif delay is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay, self._expire, key)

    def _expire(self, key: Key) -> None:
        seconds = self._pace.seconds_left(key.namespace)
        if seconds:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.enqueue, key)
        else:
            self.enqueue(key)

    async def _reconcile(self, reconcile: Reconcile, key: Key) -> float | None:
        """Reconcile a resource; return the delay until the next reconciliation, which is the backoff after an error."""
        try:
            delay = await reconcile(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
            trace = None if isinstance(error, (Conflict, Unavailable)) else error
            text = "%s %s/%s: reconciling failed, trying again in %.1f s: %s"
            log.warning(text, *key, backoff, error, exc_info=trace, extra={"key": key})
            return backoff
        self._failures.pop(key, None)
        return delay


def rest_seconds(cpu_seconds: float) -> float:
    """Return how long a resource rests after a reconciliation that took this CPU time."""
    return MINIMUM_INTERVAL_SECONDS if cpu_seconds < LONG_SECONDS else max(REST * cpu_seconds, MINIMUM_INTERVAL_SECONDS)
