"""Work that a namespace does one after another, so that it takes little from the others, however much it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

Result = TypeVar("Result")


class Turns:
    """The turns of all namespaces."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def take(self, namespace: str, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Do work when all earlier work of the namespace has ended.

        Whoever is cancelled does not wait any more. But work that has begun keeps its turn until it ends: a thread that
        reads a database cannot be stopped.
        """
        lock = self._locks.setdefault(namespace, asyncio.Lock())
        await lock.acquire()
        task = asyncio.create_task(work())

        def end(task: asyncio.Task[Result]) -> None:
            lock.release()
            if not task.cancelled():
                task.exception()  # nobody may wait for it any more

        task.add_done_callback(end)
        return await asyncio.shield(task)
