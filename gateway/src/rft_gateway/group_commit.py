"""Group commit: what waits at the same time is committed together, and whoever has brought it waits until it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts while commits fail."""
_logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


class CommitError(Exception):
    """Something could not be committed; the message says why."""


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]
    deadline: float


class GroupCommit(Generic[Item, Result]):
    """Commits items batch by batch, in a thread of its own. All methods belong to one event loop.

    Args:
        title: what the items go to, for messages.
        commit: commits a batch, and returns the result of each of its items. If it raises an error, nothing of the
            batch counts as committed.
        describe: makes a sentence of an error of `commit`.
        batch_size: size at which a batch is full. The item that reaches it belongs to the batch.
        size_of: returns the size of an item.
        patience: seconds during which a commit that fails is tried again. Items that have waited for longer fail, also
            while a commit does not return. If it is 0, items fail with the first attempt, and wait for its end.
        clock: returns seconds, for the patience.
    """

    def __init__(
        self,
        title: str,
        commit: Callable[[list[Item]], list[Result]],
        describe: Callable[[Exception], str],
        *,
        batch_size: int,
        size_of: Callable[[Item], int] = lambda _: 1,
        patience: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.failure: str | None = None
        """Why the newest commit has failed; None when it succeeded."""
        self._title = title
        self._commit = commit
        self._describe = describe
        self._batch_size = batch_size
        self._size_of = size_of
        self._patience = patience
        self._clock = clock
        self._waiting: list[_Waiting[Item, Result]] = []
        self._committing: list[_Waiting[Item, Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._committer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, title)
        self._is_finished = False

    @property
    def waiting(self) -> int:
        """Number of items that wait for a commit to begin."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """Return the item's result when it is committed. If the caller is cancelled, it is committed all the same.

        Raises:
            CommitError: it was not committed in time; the message says so if a commit may still be writing it.
        """
        if self._is_finished:
            raise CommitError(f"the {self._title} is closed")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, loop.create_future(), self._clock() + self._patience)
        self._waiting.append(waiting)
        if self._committer is None or self._committer.done():
            self._committer = loop.create_task(self._commit_all())
        if self._timer is None and self._patience:
            self._timer = loop.call_later(self._patience, self._tell_late)
        return await waiting.result

    async def run(self, work: Callable[[], Value]) -> Value:
        """Do other work in the thread, between two commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def finish(self) -> None:
        """Take no more items, and commit those that wait."""
        self._is_finished = True
        if self._committer is not None:
            await self._committer

    async def close(self) -> None:
        """Finish, and end the thread."""
        await self.finish()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown()

    async def _commit_all(self) -> None:
        pause = _SHORTEST_PAUSE
        while self._waiting:
            batch = self._committing = self._next_batch()
            try:
                results = await self.run(partial(self._commit, [each.item for each in batch]))
            except Exception as error:  # of whatever kind: nobody else would tell those who wait
                failure = self._describe(error)
                self._note(failure)
                if self._put_back(batch, failure):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._committing = []
            self._note(None)
            pause = _SHORTEST_PAUSE
            for each, result in zip(batch, results, strict=True):
                if not each.result.done():  # its caller was cancelled
                    each.result.set_result(result)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        count = size = 0
        while count < len(self._waiting) and size < self._batch_size:
            size += self._size_of(self._waiting[count].item)
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _put_back(self, batch: list[_Waiting[Item, Result]], failure: str) -> int:
        """Return how many items of a failed batch wait for another attempt; the others have waited for too long."""
        now = self._clock()
        for each in batch:
            if each.deadline <= now and not each.result.done():
                each.result.set_exception(CommitError(failure))
        patient = [each for each in batch if each.deadline > now]
        self._committing, self._waiting = [], patient + self._waiting
        return len(patient)

    def _tell_late(self) -> None:
        """Fail what has waited for too long. What no commit has begun to write is not written later, either."""
        now, late = self._clock(), f"for {self._patience:g} s"
        count = _count_late(self._waiting, now)
        not_begun, self._waiting = self._waiting[:count], self._waiting[count:]
        begun = self._committing[: _count_late(self._committing, now)]
        if begun:
            self._note(f"a commit has not returned, and entries have waited {late}")
        for each in begun:
            if not each.result.done():
                message = f"the {self._title} has not confirmed it {late}, and may still write it"
                each.result.set_exception(CommitError(message))
        for each in not_begun:
            if not each.result.done():
                each.result.set_exception(CommitError(self.failure or f"the {self._title} was busy {late}"))
        rest = self._committing[len(begun) : len(begun) + 1] or self._waiting[:1]
        pause = max(rest[0].deadline - now, _SHORTEST_PAUSE) if rest else 0.0
        self._timer = asyncio.get_running_loop().call_later(pause, self._tell_late) if rest else None

    def _note(self, failure: str | None) -> None:
        """Log that commits fail, and that they succeed again; each once."""
        if failure and not self.failure:
            _logger.warning("%s: %s", self._title, failure)
        elif self.failure and not failure:
            _logger.warning("%s: is written again", self._title)
        self.failure = failure


def _count_late(items: list[_Waiting[Item, Result]], now: float) -> int:
    """Return how many items are over their deadlines: they are the first ones."""
    return next((count for count, each in enumerate(items) if each.deadline > now), len(items))
