"""Takes the closed segments of the spool to their destinations, in objects with gzip; a store may be away for hours."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from rft_gateway.logs.spool import Destination, Queue, Segment, Spool
from rft_gateway.logs.stores import Stores
from rft_gateway.metrics import Metrics
from rft_gateway.own_threads import in_own_thread

_POLL_SECONDS = 0.2
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts while a destination cannot be written."""
_THREADS = 8
"""Destinations that are written at the same time. Each takes the memory of a segment, and of its object."""
_THREADS_OF_A_NAMESPACE = 2
"""Of these, those of one namespace. A store that does not answer, or that drips its answer, holds up none of others."""
_log = logging.getLogger(__name__)

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass
class _State:
    """What is known of a destination."""

    task: asyncio.Task[None] | None = None
    next_attempt: float = 0.0
    pause: float = _SHORTEST_PAUSE
    failure: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether it is being written."""
        return self.task is not None and not self.task.done()


class Uploader:
    """Uploads segments until it is closed.

    Args:
        spool: where they are.
        stores: where they go.
        in_thread: runs a function in the thread of the spool.
        metrics: counts what fails.
        segment_seconds: time after which a segment is closed, and uploaded.
    """

    def __init__(self, spool: Spool, stores: Stores, in_thread: InThread, metrics: Metrics, segment_seconds: float):
        self._spool = spool
        self._stores = stores
        self._in_thread = in_thread
        self._metrics = metrics
        self._segment_age = timedelta(seconds=segment_seconds)
        self._states: dict[str, _State] = {}

    async def run(self) -> None:
        """Upload what is due, until the task is cancelled."""
        while True:
            try:
                await self._close_segments(datetime.now(UTC) - self._segment_age)
                self._begin()
            except Exception:  # of whatever kind: logs would wait until the next start
                _log.exception("logs are not uploaded")
            await asyncio.sleep(_POLL_SECONDS)

    async def finish(self, seconds: float) -> None:
        """Try to upload everything, once and for a limited time; what is left waits on the disk for the next start."""
        await self._close_segments(datetime.max.replace(tzinfo=UTC))
        for state in self._states.values():
            state.next_attempt = 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                self._begin()
                while tasks := self._running():
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    self._begin()
        for task in self._running():
            task.cancel()

    async def _close_segments(self, before: datetime) -> None:
        await self._in_thread(partial(self._spool.close_segments, before))

    def _begin(self) -> None:
        """Begin with the destinations that have something, and are not being written; failed ones are the last."""
        loop = asyncio.get_running_loop()
        waiting = dict(self._spool.queues)
        self._states = {name: state for name, state in self._states.items() if name in waiting or state.is_running}
        queues = [(queue, self._states.setdefault(name, _State())) for name, queue in waiting.items()]
        running = Counter(queue.destination.namespace for queue, state in queues if state.is_running)
        for queue, state in sorted(queues, key=lambda each: each[1].next_attempt):
            namespace = queue.destination.namespace
            is_due = not state.is_running and bool(queue.closed) and state.next_attempt <= loop.time()
            if is_due and running.total() < _THREADS and running[namespace] < _THREADS_OF_A_NAMESPACE:
                running[namespace] += 1
                state.task = loop.create_task(self._upload(queue, state))

    def _running(self) -> list[asyncio.Task[None]]:
        return [state.task for state in self._states.values() if state.task is not None and state.is_running]

    async def _upload(self, queue: Queue, state: _State) -> None:
        loop = asyncio.get_running_loop()
        for segment in list(queue.closed):
            try:
                await in_own_thread(partial(self._put, queue.destination, segment), "upload")
                await self._in_thread(partial(self._spool.remove, queue, segment))
            except Exception as error:  # of whatever kind: the others must go on
                self._note_failure(queue.destination, state, str(error) or type(error).__name__)
                state.next_attempt = loop.time() + state.pause
                state.pause = min(2 * state.pause, _LONGEST_PAUSE)
                return
            self._note_failure(queue.destination, state, None)
            state.pause = _SHORTEST_PAUSE

    def _put(self, destination: Destination, segment: Segment) -> None:
        # Without the time, a repeated upload writes the same bytes.
        self._stores.put(destination, segment.object_name, gzip.compress(segment.read(), mtime=0))

    def _note_failure(self, destination: Destination, state: _State, failure: str | None) -> None:
        if failure:
            self._metrics.count_log_failure(destination.namespace)
        if failure and not state.failure:
            _log.warning("logs of %s wait: %s", destination.namespace, failure)
        elif state.failure and not failure:
            _log.warning("logs of %s are written again to %s", destination.namespace, destination.uri)
        state.failure = failure
