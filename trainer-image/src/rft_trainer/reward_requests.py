"""The requests of one batch of completions: a few while completions are being generated, then all others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from rft_api.groups import whole_batches
from rft_api.reward_protocol import Score
from rft_trainer.reward_transport import CONCURRENCY, Group, RewardTransport, Rollout

BATCH = 64
"""Samples per request: enough to amortize the cost of HTTP, and so few that a slow sample delays only few others."""
EARLY_CONCURRENCY = 2
"""Requests in flight per process and reward while completions are still being generated. Completions that end meanwhile
wait for the next request, so that a slow server gets few large requests instead of many small ones."""


class RewardRequests:
    """Requests of one batch for the trained rewards, or for one shadow; used by the event loop's thread only.

    A reward that compares the completions of a prompt gets them in one request: they wait until all of them have ended.

    Args:
        transport: the connections.
        patience: seconds that a server may be away; for a shadow no longer than its timeout.
    """

    def __init__(self, transport: RewardTransport, patience: float):
        self.busy_seconds = 0.0
        """Seconds in which a request was in flight."""
        self._transport = transport
        self._patience = patience
        self._waiting: dict[str, dict[int, Rollout]] = {}
        self._tasks: dict[asyncio.Task[list[Score]], tuple[str, dict[int, Rollout]]] = {}
        self._latest: dict[int, Rollout] = {}
        self._scores: dict[int, Score] = {}
        self._error: BaseException | None = None
        self._is_complete = False
        self._settled = asyncio.Event()
        self._busy_since = 0.0

    def add(self, rollouts: Mapping[str, Mapping[int, Rollout]], is_complete: bool) -> None:
        """Add completions, by reward and index, and request their scores; a complete batch gets no more completions."""
        self._is_complete = is_complete
        for name, more in rollouts.items():
            waiting = self._waiting.setdefault(name, {})
            waiting.update(more)
            self._latest.update(more)
            if self._transport.scores_groups(name):
                # A completion that has changed changes the scores of its whole group.
                changed = {rollout.group for rollout in more.values()}
                waiting.update({place: r for place, r in self._latest.items() if r.group in changed})
        self._send()

    async def wait(self, seconds: float | None = None) -> dict[int, Score]:
        """Wait for the scores; return them by index. After `seconds`, cancel the requests that are still open.

        Raises:
            RunError: as `RewardTransport.request`.
        """
        if not self._settled.is_set():
            try:
                await asyncio.wait_for(self._settled.wait(), seconds)
            except TimeoutError:
                self._give_up()
        if self._error is not None:
            raise self._error
        return dict(self._scores)

    def _send(self) -> None:
        limit = CONCURRENCY if self._is_complete else EARLY_CONCURRENCY
        for name, waiting in self._waiting.items():
            while waiting and sum(other == name for other, _ in self._tasks.values()) < limit:
                places = list(waiting)[:BATCH]
                if self._transport.scores_groups(name):
                    places = whole_groups(waiting, self._is_complete)
                if not places:
                    break
                batch = {place: waiting.pop(place) for place in places}
                task = asyncio.create_task(self._transport.request(name, list(batch.values()), self._patience))
                if not self._tasks:
                    self._busy_since = time.monotonic()
                self._tasks[task] = name, batch
                task.add_done_callback(self._receive)
        if not self._tasks and self._is_complete:
            self._settled.set()

    def _give_up(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        self._settled.set()

    def _receive(self, task: asyncio.Task[list[Score]]) -> None:
        name, batch = self._tasks.pop(task)
        if not self._tasks:
            self.busy_seconds += time.monotonic() - self._busy_since
        if task.cancelled():
            return
        if task.exception() is not None:
            self._error = self._error or task.exception()
            self._give_up()
        else:
            outdated = {place for place, rollout in batch.items() if self._latest[place] is not rollout}
            if self._transport.scores_groups(name):
                groups = {batch[place].group for place in outdated}
                outdated = {place for place, rollout in batch.items() if rollout.group in groups}
            for place, score in zip(batch, task.result(), strict=True):
                if place not in outdated:
                    self._scores[place] = score
        self._send()


def whole_groups(waiting: Mapping[int, Rollout], is_complete: bool) -> list[int]:
    """Return the places of groups all of whose completions are there; of as many groups as fit in a request.

    A group that is larger than a request is a request of its own. If no completions will follow (`is_complete`), every
    group has all that it will have.
    """
    groups: dict[Group, list[int]] = {}
    for place, rollout in waiting.items():
        assert rollout.group is not None
        groups.setdefault(rollout.group, []).append(place)
    whole = [members for group, members in groups.items() if is_complete or len(members) == group.size]
    return [place for members in next(whole_batches(whole, BATCH), []) for place in members]
