"""Lists of the API server: pages of any size are read, and one object that is too large leaves the others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from rft_gateway.cluster.api_server import PAGE_OBJECTS, ApiServer, Resource, TooLarge

SECRETS = Resource("Secret", "v1", "secrets")
THINGS = Resource("Thing", "example.com/v1", "things")
MIB = 1 << 20


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name}, **more}


def large(name: str) -> dict[str, Any]:
    """An object of 2 MiB, of which the API server may store many."""
    return item(name, data={"a": "x" * 2 * MIB})


def wide(name: str) -> dict[str, Any]:
    """An object with more values than are read."""
    return item(name, data={f"k{number}": "" for number in range(200_000)})


def page_text(resource: Resource, items: list[dict[str, Any]], token: str) -> str:
    """A list in the order of fields that the API server writes: of Secrets, or of custom resources."""
    metadata = {"resourceVersion": "5", "continue": token}
    if "/" in resource.api_version:
        document = {"apiVersion": resource.api_version, "items": items, "kind": "ThingList", "metadata": metadata}
    else:
        document = {"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": items}
    return json.dumps(document, separators=(",", ":"))


def names_of(resource: Resource, items: list[dict[str, Any]]) -> tuple[list[str], int, list[int]]:
    """Lists objects; returns their names, the number of pages that could not be read, and the limits asked for."""
    limits: list[int] = []

    async def handle(request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
        limits.append(limit)
        token = str(start + limit) if start + limit < len(items) else ""
        return web.Response(text=page_text(resource, items[start : start + limit], token))

    async def scenario() -> tuple[list[str], int, list[int]]:
        application = web.Application()
        application.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        names, unreadable = [], 0
        try:
            async with client.ApiClient(client.Configuration(host=f"http://{host}:{port}")) as api_client:
                async for page in ApiServer(api_client).list(resource, None):
                    names += [each["metadata"]["name"] for each in page.items]
                    unreadable += not page.is_readable
                    assert page.version == "5"
        finally:
            await runner.cleanup()
        return names, unreadable, limits

    return asyncio.run(scenario())


@pytest.mark.parametrize("resource", [SECRETS, THINGS])
def test_a_page_of_many_bytes_is_read_object_by_object(resource):
    items = [large(f"a{number}") for number in range(20)] + [item(f"b{number}") for number in range(40)]
    names, unreadable, limits = names_of(resource, items)
    assert names == [each["metadata"]["name"] for each in items]
    assert unreadable == 0
    assert limits == [PAGE_OBJECTS, *[1] * PAGE_OBJECTS, PAGE_OBJECTS]


@pytest.mark.parametrize("resource", [SECRETS, THINGS])
def test_an_object_with_many_values_is_left_out(resource):
    items = [item("a"), wide("b"), item("c"), *(item(f"d{number}") for number in range(60))]
    names, unreadable, _ = names_of(resource, items)
    assert names == [each["metadata"]["name"] for each in items if each["metadata"]["name"] != "b"]
    assert unreadable == 1


def test_an_object_that_no_api_server_stores_ends_the_list():
    with pytest.raises(TooLarge, match="answers with more than 32 MiB"):
        names_of(SECRETS, [item("a", data={"a": "x" * 33 * MIB})])
