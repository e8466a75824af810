"""Remembers the newest results, and lets those who ask for the same at the same time share one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from rft_reward.remote.errors import OutOfTimeError

V = TypeVar("V")


class Cache(Generic[V]):
    """Results by key; failures are not remembered.

    Args:
        size: most results; those that were not asked for the longest go first.
    """

    def __init__(self, size: int):
        self._size = size
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[V]] = {}

    async def get(self, key: bytes, compute: Callable[[], Coroutine[Any, Any, V]]) -> tuple[V, bool]:
        """The result, and whether it was there or on its way already.

        `compute` goes on when its first caller has given up, as others may wait for it: it has to end by itself.
        """
        while True:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key], True
            running = self._running.get(key)
            task = running or asyncio.create_task(compute())
            if running is None:
                self._running[key] = task
                task.add_done_callback(lambda done, key=key: self._remember(key, done))  # type: ignore[misc]
            try:
                return await asyncio.shield(task), running is not None
            except OutOfTimeError:
                if running is None:
                    raise
                # The other one's time was up; ours need not be.

    def _remember(self, key: bytes, done: asyncio.Task[V]) -> None:
        del self._running[key]
        if not done.cancelled() and done.exception() is None:
            self._values[key] = done.result()
            if len(self._values) > self._size:
                self._values.popitem(last=False)

    def cancel(self) -> None:
        """Ends what is being computed."""
        for task in self._running.values():
            task.cancel()
