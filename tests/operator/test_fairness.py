"""Slow and greedy pods of one namespace make their own status late, and that of no other."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from support.patience import PATIENCE_SECONDS
from views import pod

from rft_operator.kube.store import Key
from rft_operator.pods import probe as probe_module
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import SLOTS, Slots
from rft_operator.reconcile.fair_queue import FairQueue
from rft_operator.reconcile.loop import Loop
from rft_operator.rft_job import probe as job_probe
from rft_operator.rft_job.probe import ask_progress


def run(scenario):
    async def limited():
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await scenario()

    return asyncio.run(limited())


def keys(namespace, number):
    return [Key("RFTJob", namespace, f"job-{index}") for index in range(number)]


def test_namespaces_take_turns():
    async def scenario():
        queue = FairQueue()
        for key in [*keys("many", 1000), *keys("few", 2), *keys("one", 1)]:
            queue.put(key)
        return [await queue.get() for _ in range(1003)]

    order = run(scenario)
    assert [key.namespace for key in order[:6]] == ["many", "few", "one", "many", "few", "many"]
    assert [key for key in order if key.namespace == "many"] == keys("many", 1000)


def test_a_queue_waits_for_its_next_key():
    async def scenario():
        queue = FairQueue()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put(Key("RFTJob", "n", "a"))
        first = await waiting
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        return first.name

    assert run(scenario) == "a"


async def drip(reader, writer):
    """Answers a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(0.2)


async def wait(reader, writer):
    """Accepts, and says nothing."""
    await reader.read()


async def pour(reader, writer):
    """Answers without end, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.mark.parametrize("answer", [drip, wait])
@pytest.mark.parametrize("number", [SLOTS, 100, 1000])
def test_pods_that_never_answer_keep_nobody_waiting(monkeypatch, answer, number):
    # The slow pods are asked until the end of the test.
    monkeypatch.setattr(probe_module, "ASK_SECONDS", 10 * PATIENCE_SECONDS)

    async def scenario():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2000)
        monkeypatch.setattr(job_probe, "PROGRESS_PORT", server.sockets[0].getsockname()[1])
        slots, asked, finished, all_asked, good = Slots(), set(), [], asyncio.Event(), asyncio.Event()
        loop = Loop(slots)
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
            pods = PodClient(client, slots)

            async def reconcile(key):
                if key.namespace == "good":
                    good.set()
                    return
                asked.add(key)
                if len(asked) == number:
                    all_asked.set()
                await ask_progress(pods, [pod(ip="127.0.0.1")])
                finished.append(key)

            task = asyncio.create_task(loop.run(reconcile))
            await asyncio.sleep(0)
            for key in keys("hostile", number):
                loop.enqueue(key)
            await all_asked.wait()
            loop.enqueue(Key("RFTJob", "good", "job"))
            await good.wait()
            task.cancel()
            await asyncio.wait([task])
        server.close()
        return finished

    assert run(scenario) == []


def test_an_answer_without_end_costs_its_pod_its_answer():
    async def scenario():
        server = await asyncio.start_server(pour, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            answers = await asyncio.gather(
                *(PodClient(client, Slots()).get(pod(ip="127.0.0.1"), port, "/readyz") for _ in range(20))
            )
        server.close()
        return answers

    assert run(scenario) == [None] * 20


def test_a_slot_that_is_lent_comes_back():
    async def scenario():
        slots, order = Slots(1), []
        await slots.take()
        async with slots.lent():
            await slots.take()
            order.append("other")
            asyncio.get_running_loop().call_soon(slots.give_back)
        order.append("first")
        slots.give_back()
        with pytest.raises(ValueError, match="x"):
            async with slots.lent():
                raise ValueError("x")
        return order

    assert run(scenario) == ["other", "first"]
