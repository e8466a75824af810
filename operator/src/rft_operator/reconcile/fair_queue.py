"""A queue of resources in which namespaces take turns."""

from __future__ import annotations

import asyncio
from collections import deque

from rft_operator.kube.store import Key


class FairQueue:
    """A queue of keys. Namespaces with waiting keys take turns, so a thousand keys of one delay another's by one."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, deque[Key]] = {}
        """Waiting keys by namespace. The first namespace is the next one; no queue is empty."""
        self._filled = asyncio.Event()

    def put(self, key: Key) -> None:
        """Append a key to those of its namespace."""
        self._by_namespace.setdefault(key.namespace, deque()).append(key)
        self._filled.set()

    async def get(self) -> Key:
        """Wait for a key, remove it from the queue, and return it."""
        while not self._by_namespace:
            self._filled.clear()
            await self._filled.wait()
        namespace = next(iter(self._by_namespace))
        keys = self._by_namespace.pop(namespace)
        key = keys.popleft()
        if keys:
            self._by_namespace[namespace] = keys  # behind all others
        return key
