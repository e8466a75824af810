"""The loop: one pass at a time per object, none is lost, failures come again later."""

from __future__ import annotations

import asyncio

import pytest
from support.patience import PATIENCE_SECONDS

from rft_operator.kube.store import Key
from rft_operator.pods.slots import Slots
from rft_operator.reconcile import loop as loop_module
from rft_operator.reconcile.loop import Loop

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
        loop, passes, entered, release = Loop(Slots()), [], asyncio.Event(), asyncio.Event()

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
    monkeypatch.setattr(loop_module, "MINIMUM_INTERVAL_SECONDS", 1)

    async def scenario():
        loop, passes, second = Loop(Slots()), [], asyncio.Event()

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
        loop, passes = Loop(Slots()), 0
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
        loop, seen = Loop(Slots()), []
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
        loop, passes = Loop(Slots()), []
        loop.enqueue(ONE)

        async def reconcile(key):
            passes.append(key)

        task = await running(loop, reconcile)
        await asyncio.sleep(0.01)
        assert passes == []
        task.cancel()

    run(scenario)
