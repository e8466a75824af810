"""Caches the latest results, and shares one computation among simultaneous requests for the same result."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from rft_reward.remote.errors import OutOfTimeError

V = TypeVar("V")


class Cache(Generic[V]):
    """A cache of results by key. Failures are not cached.

    Args:
        size: maximum number of results. The least recently used result is removed first.
    """

    def __init__(self, size: int):
        self._size = size
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[V]] = {}

    async def get(self, key: bytes, compute: Callable[[], Coroutine[Any, Any, V]]) -> tuple[V, bool]:
        """Return a result, and whether it was cached or was being computed already.

        `compute` continues after the first caller has given up, because others may wait for it. It must end by itself.
        """
        while True:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key], True
            running = self._running.get(key)
            task = running or asyncio.create_task(compute())
            if running is None:
                self._running[key] = task
                task.add_done_callback(lambda finished, key=key: self._remember(key, finished))  # type: ignore[misc]
            try:
                return await asyncio.shield(task), running is not None
            except OutOfTimeError:
                if running is None:
                    raise
                # The time of the other caller is up, but that of this caller may not be.

    def _remember(self, key: bytes, task: asyncio.Task[V]) -> None:
        del self._running[key]
        if not task.cancelled() and task.exception() is None:
            self._values[key] = task.result()
            if len(self._values) > self._size:
                self._values.popitem(last=False)

    def cancel(self) -> None:
        """Cancel all computations."""
        for task in self._running.values():
            task.cancel()
