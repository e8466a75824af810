"""What the operator makes of an API server that is away, or has only just started."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException
from support.patience import PATIENCE_SECONDS

from rft_operator.kube.cluster import Cluster, Refused, Unavailable
from rft_operator.kube.store import Key
from rft_operator.pods.slots import Limits
from rft_operator.reconcile import loop as loop_module
from rft_operator.reconcile import resync
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.resync import run_loop
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES

JOB = {"apiVersion": "rft.dev/v1alpha1", "kind": "RFTJob", "metadata": {"name": "job", "namespace": "n"}}


class Answers:
    """A client of the API server that has one answer to everything."""

    def __init__(self, answer):
        self.answer = answer

    async def request(self, *_, serialize=True, **__):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if serialize else Unread(self.answer)


class Unread:
    """An answer whose body has not been read yet."""

    def __init__(self, answer):
        self.content = self
        self._answer = answer

    async def iter_any(self):
        yield json.dumps(self._answer).encode()

    def release(self):
        pass


def connected(answer) -> Cluster:
    cluster = Cluster(SimpleNamespace(configuration=None))
    cluster._client = Answers(answer)
    return cluster


def refusal(status: int, message: str) -> ApiException:
    error = ApiException(status=status, reason="why")
    error.body = json.dumps({"message": message})
    return error


@pytest.mark.parametrize(
    ("answer", "raised", "interrupted"),
    [
        (aiohttp.ClientPayloadError("cut"), Unavailable, True),
        (ConnectionResetError(), Unavailable, True),
        (TimeoutError(), Unavailable, True),
        (refusal(503, "starting"), Unavailable, False),
        (refusal(429, "slowly"), Unavailable, False),
        # It has just started and knows no roles yet: nobody's spec is wrong.
        (
            refusal(403, 'jobs "x" is forbidden: User "u" cannot create resource "jobs" in API group'),
            Unavailable,
            False,
        ),
        (refusal(403, 'pods "job" is forbidden: exceeded quota'), Refused, False),
        (refusal(422, "spec.x: Invalid value"), Refused, False),
    ],
    ids=str,
)
def test_what_an_answer_means(answer, raised, interrupted):
    cluster = connected(answer)
    with pytest.raises(raised):
        asyncio.run(cluster.apply(JOB))
    assert cluster.interrupted.is_set() is interrupted


def test_everything_is_read_anew_after_an_interruption(monkeypatch):
    """A watch that begins anew does not tell what was deleted meanwhile."""
    monkeypatch.setattr(resync, "RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr(resync, "RETRY_SECONDS", 0.01)
    # The pass that fails does not come again by itself.
    monkeypatch.setattr(loop_module, "FIRST_BACKOFF_SECONDS", 1e6)
    monkeypatch.setattr(loop_module, "LONGEST_BACKOFF_SECONDS", 1e6)
    stored = {"metadata": {**JOB["metadata"], "uid": "u", "resourceVersion": "5"}}
    there = {"apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "9"}}
    cluster, router, loop, key = connected(there), Router(RESOURCES), Loop(Limits()), Key("RFTJob", "n", "job")
    passes: asyncio.Queue[Key] = asyncio.Queue()

    async def reconcile(key: Key) -> None:
        passes.put_nowait(key)
        if router.store.get(key) is not None:
            raise Unavailable("cut")

    async def scenario() -> None:
        running = asyncio.create_task(run_loop(cluster, (), router, loop, reconcile))
        while loop._start is None:  # before, everything is being listed
            await asyncio.sleep(0.01)
        router.store.put("RFTJob", stored)
        loop.enqueue(key)
        assert await passes.get() == key
        cluster._client.answer = ConnectionRefusedError()
        with pytest.raises(Unavailable):
            await cluster.get("RFTJob", "n", "job")
        await asyncio.sleep(0.05)
        assert router.store.get(key) is not None
        cluster._client.answer = there
        assert await asyncio.wait_for(passes.get(), PATIENCE_SECONDS) == key
        assert router.store.get(key) is None
        running.cancel()

    asyncio.run(scenario())
