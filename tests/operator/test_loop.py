"""The loop: one pass at a time per object, none is lost, failures come again later."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.patience import PATIENCE_SECONDS

from rft_operator.kube.store import Key
from rft_operator.pods.slots import Limits
from rft_operator.reconcile import loop as loop_module
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.metered import Metered

ONE, TWO = Key("RFTJob", "n", "one"), Key("RFTJob", "n", "two")


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    monkeypatch.setattr(loop_module, "MINIMUM_INTERVAL_SECONDS", 0)


def run(scenario):
    async def limited():
        async with asyncio.timeout(PATIENCE_SECONDS):
            await scenario()

    asyncio.run(limited())


async def settle():
    """Lets everything run that is not waiting for a time."""
    for _ in range(100):
        await asyncio.sleep(0)


async def running(loop: Loop, reconcile):
    task = asyncio.create_task(loop.run(reconcile))
    await asyncio.sleep(0)
    return task


def test_waking_during_a_pass_makes_for_exactly_one_more():
    async def scenario():
        loop, passes, entered, release = Loop(Limits()), [], asyncio.Event(), asyncio.Event()

        async def reconcile(key):
            passes.append(key)
            entered.set()
            await release.wait()

        task = await running(loop, reconcile)
        loop.enqueue(ONE)
        await entered.wait()
        for _ in range(5):
            loop.enqueue(ONE)
        loop.enqueue(TWO)
        await settle()
        assert passes == [ONE, TWO]  # objects do not wait for one another
        release.set()
        await settle()
        assert sorted(passes) == [ONE, ONE, TWO]
        task.cancel()

    run(scenario)


def test_a_burst_makes_for_one_pass(monkeypatch):
    # Longer than a busy machine takes for the burst.
    monkeypatch.setattr(loop_module, "MINIMUM_INTERVAL_SECONDS", 5)

    async def scenario():
        loop, passes, second = Loop(Limits()), [], asyncio.Event()

        async def reconcile(key):
            passes.append(key)
            if len(passes) == 2:
                second.set()

        task = await running(loop, reconcile)
        for _ in range(5):
            loop.enqueue(ONE)
            await settle()
        assert passes == [ONE]  # the first one at once
        await second.wait()
        await settle()
        assert passes == [ONE, ONE]
        task.cancel()

    run(scenario)


def test_a_pass_says_when_it_wants_to_look_again():
    async def scenario():
        loop, passes = Loop(Limits()), 0
        done = asyncio.Event()

        async def reconcile(key):
            nonlocal passes
            passes += 1
            if passes == 3:
                done.set()
                return None
            return 0.01

        task = await running(loop, reconcile)
        loop.enqueue(ONE)
        await done.wait()
        await asyncio.sleep(0.05)
        assert passes == 3
        task.cancel()

    run(scenario)


def test_a_failing_pass_comes_again_and_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(loop_module, "FIRST_BACKOFF_SECONDS", 0.01)

    async def scenario():
        loop, seen = Loop(Limits()), []
        done = asyncio.Event()

        async def reconcile(key):
            seen.append(key)
            if key == ONE and seen.count(ONE) < 3:
                raise RuntimeError("no API server")
            if seen.count(ONE) == 3:
                done.set()

        task = await running(loop, reconcile)
        loop.enqueue(ONE)
        loop.enqueue(TWO)
        await done.wait()
        assert seen.count(TWO) == 1
        task.cancel()

    run(scenario)


def test_nothing_is_queued_before_it_runs():
    async def scenario():
        loop, passes = Loop(Limits()), []
        loop.enqueue(ONE)

        async def reconcile(key):
            passes.append(key)

        task = await running(loop, reconcile)
        await asyncio.sleep(0.01)
        assert passes == []
        task.cancel()

    run(scenario)


def test_a_resource_rests_in_proportion_to_its_cpu_time():
    assert loop_module.rest_seconds(0.019) == 0
    assert loop_module.rest_seconds(0.5) == 5


def test_a_long_reconciliation_gives_others_their_turns(monkeypatch):
    """Both are changed without end. The long one is not repeated while the short one is, many times."""
    monkeypatch.setattr(loop_module, "REST", 10_000)

    async def scenario():
        loop, passes, ended = Loop(Limits()), [], asyncio.Event()

        async def reconcile(key):
            loop.enqueue(key)
            passes.append(key)
            end = time.thread_time() + (0.03 if key == ONE else 0)
            while time.thread_time() < end:
                pass
            if len(passes) == 100:
                ended.set()

        task = await running(loop, reconcile)
        loop.enqueue(ONE)
        loop.enqueue(TWO)
        await ended.wait()
        assert passes.count(ONE) == 1
        task.cancel()

    run(scenario)


def test_time_of_waiting_is_not_metered():
    async def scenario():
        async def wait_and_compute():
            await asyncio.sleep(0.2)
            short = 0.1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(short):
                    await asyncio.Event().wait()
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass
            return "result"

        metered = Metered(wait_and_compute())
        assert await metered == "result"
        assert 0.05 <= metered.seconds < 0.25  # the waits have 0.3

        async def fail():
            await asyncio.sleep(0)
            raise ValueError("x")

        with pytest.raises(ValueError, match="x"):
            await Metered(fail())

    run(scenario)
