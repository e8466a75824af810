"""Slow and greedy pods of one namespace make their own status late, and that of no other."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest
from lives import job
from support.patience import PATIENCE_SECONDS
from views import NOW, pod
from worlds_from_yaml import SETTINGS

from rft_api.rft_job import RFTJob
from rft_operator.kube.store import Key
from rft_operator.pods import probe as probe_module
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import CONNECTIONS, STARTED, WORKING, Limits, Slots
from rft_operator.reconcile import loop as loop_module
from rft_operator.reconcile import pace as pace_module
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.pace import AT_ONCE, PER_SECOND, Pace
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES
from rft_operator.rft_job import probe as job_probe
from rft_operator.rft_job.plan import plan_rft_job
from rft_operator.rft_job.probe import ask_progress
from rft_operator.rft_job.world import MAXIMUM_SHARING, gather_rft_job


def run(scenario):
    async def limited():
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await scenario()

    return asyncio.run(limited())


def keys(namespace, number):
    return [Key("RFTJob", namespace, f"job-{index}") for index in range(number)]


def test_namespaces_take_turns():
    slots, order = Slots(1, share=1), []

    def start(key):
        order.append(key)
        return True

    slots.request("busy", lambda: True)
    for key in [*keys("many", 1000), *keys("few", 2), *keys("one", 1)]:
        slots.request(key.namespace, lambda key=key: start(key))
    assert order == []
    slots.give_back("busy")
    while len(order) < 1003:
        slots.give_back(order[-1].namespace)
    assert [key.namespace for key in order[:6]] == ["many", "few", "one", "many", "few", "many"]
    assert [key for key in order if key.namespace == "many"] == keys("many", 1000)


def test_no_namespace_holds_more_than_its_share():
    slots, order = Slots(4, share=3), []
    for namespace in ["many"] * 10 + ["few", "few"]:
        slots.request(namespace, lambda namespace=namespace: order.append(namespace) or True)
    assert order == ["many", "many", "many", "few"]
    slots.give_back("many")
    assert order[4:] == ["many"]
    slots.give_back("few")
    assert order[5:] == ["few"]  # "many" waits longer, and has its share
    slots.give_back("few")
    assert order[6:] == []  # a free slot that is kept from those who have their share


def test_a_slot_is_waited_for():
    async def scenario():
        slots = Slots(1, share=1)
        await slots.take("n")
        waiting = asyncio.create_task(slots.take("n"))
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.give_back("n")
        await waiting
        waiting = asyncio.create_task(slots.take("n"))
        cancelled_late = asyncio.create_task(slots.take("n"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        slots.give_back("n")  # not to the one that was cancelled
        cancelled_late.cancel()  # the slot is its own, and it does not know it yet
        await asyncio.wait([cancelled_late])
        await slots.take("n")

    run(scenario)


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
@pytest.mark.parametrize("number", [WORKING, 100, 1000])
def test_pods_that_never_answer_keep_nobody_waiting(monkeypatch, answer, number):
    # The slow pods are asked until the end of the test.
    monkeypatch.setattr(probe_module, "ASK_SECONDS", 10 * PATIENCE_SECONDS)

    async def scenario():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2000)
        monkeypatch.setattr(job_probe, "PROGRESS_PORT", server.sockets[0].getsockname()[1])
        limits, asked, finished, all_asked, good = Limits(), set(), [], asyncio.Event(), asyncio.Event()
        loop = Loop(limits)
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
            pods = PodClient(client, limits)

            async def reconcile(key):
                if key.namespace == "good":
                    good.set()
                    return
                asked.add(key)
                if len(asked) == min(number, STARTED // 4):
                    all_asked.set()
                await ask_progress(pods, [pod(ip="127.0.0.1", namespace=key.namespace)])
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
                *(PodClient(client, Limits()).get(pod(ip="127.0.0.1"), port, "/readyz") for _ in range(20))
            )
        server.close()
        return answers

    assert run(scenario) == [None] * 20


def test_a_slot_that_is_lent_comes_back():
    async def scenario():
        slots, order = Slots(1, share=1), []
        await slots.take("n")
        async with slots.lent("n"):
            await slots.take("n")
            order.append("other")
            asyncio.get_running_loop().call_soon(slots.give_back, "n")
        order.append("first")
        slots.give_back("n")
        with pytest.raises(ValueError, match="x"):
            async with slots.held("n"), slots.lent("n"):
                raise ValueError("x")
        await slots.take("n")
        return order

    assert run(scenario) == ["other", "first"]


def test_pods_that_answer_all_at_once_come_back_in_turns():
    """A thousand answers of one namespace do not go before the one of another that comes after them."""

    async def scenario():
        slots, order = Slots(2, share=2), []
        answered = asyncio.Event()

        async def reconcile(namespace):
            async with slots.held(namespace):
                async with slots.lent(namespace):
                    await answered.wait()
                order.append(namespace)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(reconcile("hostile")) for _ in range(1000)]
        tasks.append(asyncio.create_task(reconcile("good")))
        await asyncio.sleep(0.1)
        answered.set()
        await asyncio.wait(tasks)
        return order

    order = run(scenario)
    assert len(order) == 1001
    assert order.index("good") < 10


def test_one_object_with_many_pods_takes_its_share_of_connections():
    """All pods of one endpoint are asked at once, and each can take its time."""

    async def scenario():
        open_now = []
        most, stop = 0, asyncio.Event()

        async def count(reader, writer):
            nonlocal most
            open_now.append(writer)
            most = max(most, len(open_now))
            if len(open_now) == CONNECTIONS // 4:
                stop.set()
            await reader.read()

        server = await asyncio.start_server(count, "127.0.0.1", 0, backlog=2000)
        port = server.sockets[0].getsockname()[1]
        limits = Limits()
        async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None)) as client:
            pods = PodClient(client, limits)

            async def ask_many():
                async with limits.working.held("hostile"):
                    views = [pod(ip="127.0.0.1", namespace="hostile")] * 1000
                    await pods.ask_all(views, lambda view: pods.get(view, port, "/"))

            asking = asyncio.create_task(ask_many())
            await stop.wait()
            await asyncio.sleep(0.2)
            assert not asking.done()
            asking.cancel()
            await asyncio.wait([asking])
        server.close()
        return most

    assert run(scenario) == CONNECTIONS // 4


@pytest.mark.parametrize(
    ("number", "succeeded", "reads"),
    [(50, True, 50), (50, False, 1), (MAXIMUM_SHARING, True, MAXIMUM_SHARING), (1000, True, 1), (1000, False, 1)],
)
def test_jobs_that_share_an_endpoint_are_not_read_by_each_other_without_limit(monkeypatch, number, succeeded, reads):
    """A thousand jobs that each read a thousand took the operator's only thread for minutes."""
    store = Router(RESOURCES).store
    end = {"type": "Succeeded", "reason": "Succeeded", "message": "", "observedGeneration": 1}
    end |= {"status": "True" if succeeded else "Unknown", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    for n in range(number):
        manifest = job(endpoint={"name": f"e{n}", "baseEndpoint": "base"})
        metadata = {"name": f"job-{n}", "namespace": "team", "uid": f"u{n}", "resourceVersion": str(n + 1)}
        store.put("RFTJob", {**manifest, "metadata": metadata, "status": {"conditions": [end]}})
    key = Key("RFTJob", "team", "job-0")
    first = store.read(RFTJob, key)
    read, seen = store.read, []
    monkeypatch.setattr(store, "read", lambda model, key: seen.append(key) or read(model, key))
    world = gather_rft_job(store, key, first, None, NOW)
    assert len([target for target in seen if target.kind == "RFTJob"]) == reads - 1
    assert len(world.sharing_jobs) == (reads if reads > 1 else 0)
    # Without owners, the endpoint is kept; see docs/operator.md.
    (base,) = [
        desired.object["metadata"]
        for desired in plan_rft_job(world, SETTINGS).desired
        if desired.object["metadata"]["name"] == "base"
    ] or [{"ownerReferences": []}]
    assert len(base["ownerReferences"]) == len(world.sharing_jobs)


def test_a_namespace_is_looked_at_at_a_pace_and_others_at_theirs():
    now = 1000.0
    pace = Pace(lambda: now)
    at_once = pytest.approx([0.0] * AT_ONCE, abs=1e-6)
    begins = [pace.seconds_left("many") for _ in range(1000)]
    assert begins[:AT_ONCE] == at_once
    assert begins[AT_ONCE : AT_ONCE + 2] == pytest.approx([1 / PER_SECOND, 2 / PER_SECOND])
    assert begins[-1] == pytest.approx((1000 - AT_ONCE) / PER_SECOND)
    assert [pace.seconds_left("few") for _ in range(AT_ONCE)] == at_once
    now += 1000 / PER_SECOND
    assert pace.seconds_left("many") == pytest.approx(0.0, abs=1e-6)
    for number in range(5000):
        now += 1.0
        pace.seconds_left(f"namespace-{number}")
    assert len(pace._next) <= 1001, "namespaces that are gone are forgotten"


def test_a_pace_delays_looks_and_no_changes(monkeypatch):
    monkeypatch.setattr(loop_module, "MINIMUM_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(pace_module, "PER_SECOND", 1e-6)
    objects = keys("many", 3 * AT_ONCE)

    async def scenario():
        loop, passes, delay = Loop(Limits()), Counter(), 0.001

        async def reconcile(key):
            passes[key] += 1
            return delay

        async def until(count):
            while passes.total() < count:
                await asyncio.sleep(0)

        task = asyncio.create_task(loop.run(reconcile))
        await asyncio.sleep(0)
        for key in objects:
            loop.enqueue(key)
        await until(4 * AT_ONCE)
        await asyncio.sleep(20 * delay)
        assert passes.total() == 4 * AT_ONCE, "a third of them has been looked at again"
        for number in range(1, 4):
            for key in objects:
                loop.enqueue(key)
            await until((4 + 3 * number) * AT_ONCE)
        loop.enqueue(Key("RFTJob", "few", "job"))
        await until(14 * AT_ONCE)  # the other namespace's own looks have not begun to wait
        delay = 0
        loop.enqueue(objects[0])
        await until(20 * AT_ONCE)  # one that wants to be looked at immediately
        task.cancel()

    run(scenario)
