"""The level-based loop: one pass per object that was woken, never two at once for the same, again when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from rft_operator.kube.cluster import Conflict, Unavailable
from rft_operator.kube.store import Key

log = logging.getLogger(__name__)

WORKERS = 16
REST_SECONDS = 0.1
"""Least time between two passes over an object: news come in bursts, and who undoes our work is not raced with."""
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0


Pass = Callable[[Key], Awaitable[float | None]]
"""Looks at one object; returns after how many seconds it is to be looked at again, or none."""


class Loop:
    """Runs passes over objects.

    A pass looks at everything anew, so it does not matter how often an object was woken or by what. Waking an object
    during its pass, or shortly after it, makes for one more pass.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._active = False

    def wake(self, key: Key) -> None:
        """Has the object looked at soon; nothing before `run` has begun, which looks at every object anyway."""
        if not self._active:
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

    def retry(self) -> None:
        """Has the objects whose last pass failed looked at now, and not at the end of their pause."""
        for key in list(self._failures):
            self.wake(key)

    async def run(self, run_pass: Pass) -> None:
        """Runs passes until it is cancelled."""
        self._active = True
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS):
                    workers.create_task(self._work(run_pass))
        finally:
            self._active = False

    async def _work(self, run_pass: Pass) -> None:
        while True:
            key = await self._queue.get()
            self._queued.discard(key)
            self._running.add(key)
            delay = await self._guarded_pass(run_pass, key)
            asyncio.get_running_loop().call_later(REST_SECONDS, self._end, key, delay)

    def _end(self, key: Key, delay: float | None) -> None:
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.wake(key)
        elif delay is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay, self._expire, key)

    def _expire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.wake(key)

    async def _guarded_pass(self, run_pass: Pass, key: Key) -> float | None:
        try:
            delay = await run_pass(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1), LONGEST_BACKOFF_SECONDS)
            trace = None if isinstance(error, (Conflict, Unavailable)) else error
            log.warning("%s %s/%s: pass failed, again in %.1f s: %s", *key, pause, error, exc_info=trace)
            return pause
        self._failures.pop(key, None)
        return delay
