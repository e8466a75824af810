"""Group commit: everything that was submitted is committed once and in order, or its submitter is told why not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.patience import PATIENCE_SECONDS

from rft_gateway.group_commit import CommitError, GroupCommit


class Store:
    """Takes numbers, and answers with their squares. While it is held, a batch does not end."""

    def __init__(self, failures: int = 0):
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.failures = failures
        self.begun = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()

    def commit(self, batch: list[int]) -> list[int]:
        self.begun.release()
        self.free.wait(PATIENCE_SECONDS)
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is full")
        return [number**2 for number in batch]


def run(store: Store, scenario: Callable[[GroupCommit[int, int]], Awaitable[Any]], **settings: Any) -> Any:
    async def limited() -> Any:
        commits = GroupCommit("store", store.commit, str, **{"batch_size": 100, **settings})
        async with asyncio.timeout(PATIENCE_SECONDS):
            result = await scenario(commits)
            await commits.close()
        return result

    return asyncio.run(limited())


async def submit_behind(store: Store, commits: GroupCommit[int, int], numbers: list[int]) -> list[asyncio.Task[int]]:
    """Holds the store with a 0, and returns the tasks that submit this and the numbers, which wait behind it."""
    store.free.clear()
    tasks = [asyncio.create_task(commits.submit(0))]
    await asyncio.to_thread(store.begun.acquire)
    tasks += [asyncio.create_task(commits.submit(number)) for number in numbers]
    await asyncio.sleep(0)
    assert commits.waiting == len(numbers)
    return tasks


def test_what_waits_is_one_batch_and_each_has_its_own_result():
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> list[int]:
        tasks = await submit_behind(store, commits, [1, 2, 3])
        store.free.set()
        return await asyncio.gather(*tasks)

    assert run(store, scenario) == [0, 1, 4, 9]
    assert store.batches == [[0], [1, 2, 3]]
    assert len(store.threads) == 1
    assert threading.get_ident() not in store.threads


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ({"batch_size": 2}, [[3, 1], [5, 1], [1]]),
        ({"batch_size": 5, "size_of": lambda number: number}, [[3, 1, 5], [1, 1]]),
    ],
)
def test_a_batch_ends_with_what_makes_it_full(settings, batches):
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> None:
        tasks = await submit_behind(store, commits, [3, 1, 5, 1, 1])
        store.free.set()
        await asyncio.gather(*tasks)

    run(store, scenario, **settings)
    assert store.batches == [[0], *batches]


def test_what_a_cancelled_caller_has_submitted_is_committed():
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> int:
        held, cancelled, last = await submit_behind(store, commits, [1, 2])
        held.cancel()
        cancelled.cancel()
        await asyncio.wait([held, cancelled])
        store.free.set()
        return await last

    assert run(store, scenario) == 4
    assert store.batches == [[0], [1, 2]]


def test_without_patience_a_failure_is_told_at_once_and_the_next_batch_goes_on(caplog):
    store = Store(failures=1)

    async def scenario(commits: GroupCommit[int, int]) -> list[Any]:
        tasks = await submit_behind(store, commits, [1, 2])
        store.free.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert commits.failure is None
        return results

    error, *results = run(store, scenario)
    assert isinstance(error, CommitError)
    assert (str(error), results) == ("the disk is full", [1, 4])
    assert store.batches == [[0], [1, 2]]
    assert caplog.messages == ["store: the disk is full", "store: is written again"]


def test_with_patience_the_same_is_tried_again_before_what_is_newer(caplog):
    store = Store(failures=3)

    async def scenario(commits: GroupCommit[int, int]) -> list[int]:
        tasks = await submit_behind(store, commits, [1, 2])
        store.free.set()
        return await asyncio.gather(*tasks)

    assert run(store, scenario, patience=PATIENCE_SECONDS) == [0, 1, 4]
    assert store.batches == [[0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert caplog.messages == ["store: the disk is full", "store: is written again"]


def test_those_that_have_waited_for_too_long_fail_alone():
    store = Store(failures=2)
    now = 0.0

    async def scenario(commits: GroupCommit[int, int]) -> list[Any]:
        nonlocal now
        tasks = await submit_behind(store, commits, [])
        now = 9.0
        tasks.append(asyncio.create_task(commits.submit(1)))
        await asyncio.sleep(0)
        store.free.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    def clock() -> float:
        return 10.0 if [0, 1] in store.batches else now

    old, new = run(store, scenario, patience=10.0, clock=clock)
    assert isinstance(old, CommitError)
    assert new == 1
    assert store.batches == [[0], [0, 1], [1]]


def test_a_commit_that_does_not_return_holds_nobody_for_longer_than_the_patience(caplog):
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> list[Any]:
        tasks = await submit_behind(store, commits, [1, 2])
        results = await asyncio.gather(*tasks, return_exceptions=True)  # the store is held until all are told
        store.free.set()
        return [*results, await commits.submit(3)]

    begun, *not_begun, later = run(store, scenario, patience=0.2)
    assert str(begun) == "the store has not confirmed it for 0.2 s, and may still write it"
    message = "a commit has not returned, and entries have waited for 0.2 s"
    assert [str(error) for error in not_begun] == [message, message]
    assert {type(error) for error in (begun, *not_begun)} == {CommitError}
    assert later == 9
    assert store.batches == [[0], [3]]  # what was said not to be written is not written later
    assert caplog.messages == [f"store: {message}", "store: is written again"]


def test_those_that_have_come_later_wait_on_when_the_first_are_told():
    store = Store()
    now = 0.0

    async def scenario(commits: GroupCommit[int, int]) -> list[Any]:
        nonlocal now
        tasks = await submit_behind(store, commits, [1])
        now = 100.0
        tasks.append(asyncio.create_task(commits.submit(2)))
        await asyncio.wait(tasks[:2])
        assert not tasks[2].done()
        store.free.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *old, new = run(store, scenario, patience=0.2, clock=lambda: now)
    assert [type(error) for error in old] == [CommitError, CommitError]
    assert new == 4
    assert store.batches == [[0], [2]]


def test_other_work_waits_for_the_batch_before_it():
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> tuple[list[list[int]], int]:
        await submit_behind(store, commits, [])
        work = asyncio.create_task(commits.run(lambda: (list(store.batches), threading.get_ident())))
        await asyncio.sleep(0)
        store.free.set()
        return await work

    batches, thread = run(store, scenario)
    assert batches == [[0]]
    assert store.threads == {thread}


def test_the_end_commits_what_waits_and_takes_no_more():
    store = Store()

    async def scenario(commits: GroupCommit[int, int]) -> list[int]:
        tasks = await submit_behind(store, commits, [1, 2])
        finishing = asyncio.create_task(commits.finish())
        await asyncio.sleep(0)
        with pytest.raises(CommitError, match="the store is closed"):
            await commits.submit(3)
        store.free.set()
        await finishing
        assert all(task.done() for task in tasks)
        return await commits.run(lambda: store.batches)

    assert run(store, scenario) == [[0], [1, 2]]
