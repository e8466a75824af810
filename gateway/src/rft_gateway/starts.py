"""When requests begin: a flood of one namespace's requests takes little of the time of the others'."""

from __future__ import annotations

import asyncio
from collections import deque


class Starts:
    """Lets one request of each namespace begin in a pass of the event loop; the next ones wait for the next pass.

    So a request does not wait until the loop has begun all those of others that came at the same time. Requests that
    have begun are not held up.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """What waits, of each namespace of which a request has begun in this pass."""

    async def wait(self, namespace: str) -> None:
        """Wait until a request of a namespace may begin."""
        loop = asyncio.get_running_loop()
        queue = self._waiting.get(namespace)
        if queue is not None:
            start: asyncio.Future[None] = loop.create_future()
            queue.append(start)
            await start
            return
        if not self._waiting:
            loop.call_soon(self._begin_pass)
        self._waiting[namespace] = deque()

    def _begin_pass(self) -> None:
        for namespace, queue in list(self._waiting.items()):
            while queue and queue[0].cancelled():  # its client has left
                queue.popleft()
            if queue:
                queue.popleft().set_result(None)
            else:
                del self._waiting[namespace]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_pass)
