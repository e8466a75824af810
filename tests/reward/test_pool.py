"""The workers of a pool: none is lost to those who no longer wait for it, or to an error when another one ends."""

import asyncio

import pytest
from support.worker_settings import SETTINGS

from rft_reward import pool
from rft_reward.metrics import Metrics
from rft_reward.worker_process import WorkerLost

ONE_WORKER = pool.PoolSettings(worker=SETTINGS, workers=1, timeout="60s", timeout_seconds=60.0, combined=None)


class Worker:
    """A worker without a process, which fails when it ends as often as `failures` says."""

    layers, refusals, warnings = {}, (), ()
    failures = 0

    def __init__(self, settings):
        self.lost = asyncio.Event()

    async def start(self):
        """Be ready at once."""

    async def end(self):
        """Fail, or end."""
        self.lost.set()
        if Worker.failures:
            Worker.failures -= 1
            raise OSError("too many open files")


@pytest.fixture
def one_worker(monkeypatch):
    monkeypatch.setattr(pool, "WorkerProcess", Worker)
    monkeypatch.setattr(pool.asyncio, "sleep", lambda seconds, sleep=asyncio.sleep: sleep(0))
    return pool.Pool(ONE_WORKER, Metrics())


def test_a_worker_is_for_the_next_when_who_got_it_no_longer_waits(one_worker):
    async def give_up_just_then():
        one_worker.start()
        worker = await one_worker._take()
        first, second = asyncio.create_task(one_worker._take()), asyncio.create_task(one_worker._take())
        await asyncio.sleep(0)
        one_worker._give_back(worker, None)
        first.cancel()
        assert await second is worker
        assert first.cancelled()
        await one_worker.close()

    asyncio.run(give_up_just_then())


def test_a_worker_is_started_after_one_that_could_not_be_ended(one_worker):
    async def lose_a_worker():
        one_worker.start()
        worker = await one_worker._take()
        Worker.failures = 2
        one_worker._give_back(worker, "leftover_files")
        with pytest.raises(WorkerLost, match="too many open files"):
            await one_worker._take()
        assert await one_worker._take() is not worker
        await one_worker.close()

    asyncio.run(lose_a_worker())
