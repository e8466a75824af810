"""Lists of the API server: pages of any size are read with little memory, and none of their objects is left out."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client
from support.patience import PATIENCE_SECONDS

from rft_operator.kube import cluster as cluster_module
from rft_operator.kube.cluster import PAGE_OBJECTS, Cluster, Unavailable
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.reconcile.watches import CHUNK_OBJECTS, build_settings

MIB = 1 << 20
MANY_VALUES = "[" + ",".join(["{}"] * 160_000) + "]"
"""Half a MiB, which takes more than 10 MiB when it is parsed."""


def item(name: str, more: str = "{}") -> str:
    metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": "4"}
    return f'{{"metadata":{json.dumps(metadata)},"spec":{{"pod":{{"affinity":{more}}}}}}}'


class Lists:
    """An API server that has only one list."""

    def __init__(self, items: list[str]) -> None:
        self.limits: list[int] = []
        self.address = ""
        self._items = items
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Lists:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        async def start() -> None:
            application = web.Application()
            application.router.add_get("/{path:.*}", self._answer)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            self.address = f"http://{host}:{port}"
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _answer(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
        self.limits.append(limit)
        metadata = {"resourceVersion": "5"}
        if start + limit < len(self._items):
            metadata["continue"] = str(start + limit)
        items = ",".join(self._items[start : start + limit])
        return web.Response(
            text=f'{{"apiVersion":"rft.dev/v1alpha1","items":[{items}],"metadata":{json.dumps(metadata)}}}'
        )


async def read(address: str, events: bool = False) -> Any:
    async with client.ApiClient(client.Configuration(host=address)) as api_client:
        cluster = Cluster(api_client)
        if events:
            return await cluster.events("team", "uid")
        pages = [page async for page, version in cluster.list(INFERENCE_ENDPOINT.name, None) if version == 5]
        return [each["metadata"]["name"] for page in pages for each in page]


@pytest.mark.parametrize("more", [json.dumps("x" * MIB), MANY_VALUES], ids=["bytes", "values"])
def test_a_large_page_is_read_object_by_object_and_lacks_none(more):
    items = [item(f"a{number}", more) for number in range(10)]
    items += [item(f"b{number}") for number in range(2 * PAGE_OBJECTS)]
    with Lists(items) as server:
        assert asyncio.run(read(server.address)) == [json.loads(each)["metadata"]["name"] for each in items]
    assert server.limits == [PAGE_OBJECTS, *[1] * PAGE_OBJECTS, PAGE_OBJECTS, PAGE_OBJECTS]


def test_an_object_that_no_api_server_stores_ends_the_list():
    with Lists([item("a", json.dumps("x" * 17 * MIB))]) as server, pytest.raises(Unavailable, match="more than 16 MiB"):
        asyncio.run(read(server.address))


LIST_ALL = """
import asyncio, resource, sys
from kubernetes.aio import client
from rft_operator.kube.cluster import Cluster

async def read():
    async with client.ApiClient(client.Configuration(host=sys.argv[1])) as api_client:
        cluster = Cluster(api_client)
        before, count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
        async for page, _ in cluster.list("InferenceEndpoint", None):
            count += len(page)
        print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(read())
"""


def test_many_large_objects_take_the_memory_of_one():
    with Lists([item(f"a{number}", MANY_VALUES) for number in range(60)]) as server:
        command = [sys.executable, "-c", LIST_ALL, server.address]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    count, kib = map(int, output.split())
    assert count == 60
    assert kib < 150 << 10  # all of them take more than 700 MiB


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, cluster_module.__name__):
        yield caplog


def test_some_of_very_many_events_are_read(log):
    with Lists([item(f"a{number}") for number in range(5000)]) as server:
        assert len(asyncio.run(read(server.address, events=True))) == 1000
    assert log.messages == ["1000 events about the object with uid uid in namespace team are read, and it has more"]


def test_some_of_very_large_events_are_read(log):
    with Lists([item(f"a{number}", json.dumps("x" * MIB)) for number in range(50)]) as server:
        assert len(asyncio.run(read(server.address, events=True))) == 8
    assert len(log.messages) == 1


def test_all_of_a_thousand_events_are_read(log):
    with Lists([item(f"a{number}") for number in range(1000)]) as server:
        assert len(asyncio.run(read(server.address, events=True))) == 1000
    assert log.messages == []


def test_kopf_reads_few_objects_at_once():
    assert build_settings().watching.chunk_size == CHUNK_OBJECTS <= 5
