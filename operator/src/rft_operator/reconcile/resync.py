"""Resynchronisation: list all objects when a replica becomes the leader, after an outage, and at intervals.

The watches may have missed changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from rft_api.resource import API_VERSION
from rft_operator.kube.cluster import Cluster, Unavailable
from rft_operator.kube.kinds import OURS, WATCHED
from rft_operator.kube.store import Key, key_of
from rft_operator.reconcile.loop import Loop, Reconcile
from rft_operator.reconcile.routing import Router

log = logging.getLogger(__name__)

RESYNC_SECONDS = 600.0
"""Seconds between two resynchronisations without an outage."""
RECONNECT_SECONDS = 5.0
"""Seconds between an outage and the resynchronisation, in which the watches reconnect.

A list that is read before they have reconnected misses what changes until then.
"""
RETRY_SECONDS = 2.0
"""Seconds until a request that failed is sent again."""


async def wait_for_definitions(cluster: Cluster) -> None:
    """Wait until the API server serves our resources, because kopf watches only those that exist when it starts."""
    while True:
        try:
            missing = sorted({kind.plural for kind in OURS} - await cluster.served(API_VERSION))
        except Unavailable as error:
            log.warning("the API server is unavailable, trying again: %s", error)
        else:
            if not missing:
                return
            log.warning("waiting for the custom resource definitions of %s; apply them", ", ".join(missing))
        await asyncio.sleep(RETRY_SECONDS)


async def load_store(cluster: Cluster, namespaces: Sequence[str], router: Router) -> list[Key]:
    """List all objects into the store; return the resources that the changes affect."""
    while True:
        cluster.interrupted.clear()
        try:
            return await _list_all(cluster, namespaces, router)
        except Unavailable as error:
            log.warning("the objects cannot be listed, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _list_all(cluster: Cluster, namespaces: Sequence[str], router: Router) -> list[Key]:
    affected: list[Key] = []
    for kind in sorted(WATCHED, key=lambda kind: kind.ours):  # children before their owners
        for namespace in namespaces or (None,):
            affected += await _list_kind(cluster, namespace, router, kind.name)
    return affected


async def _list_kind(cluster: Cluster, namespace: str | None, router: Router, kind: str) -> list[Key]:
    affected: list[Key] = []
    listed: set[Key] = set()
    version = 0
    async for page, read_at in cluster.list(kind, namespace):
        version = read_at
        for obj in page:
            listed.add(key_of(kind, obj))
            affected += router.store_event(kind, None, obj)
    for obj in router.store.prune(kind, namespace, listed, version):
        affected += router.affected(kind, obj)
    return affected


async def run_loop(
    cluster: Cluster, namespaces: Sequence[str], router: Router, loop: Loop, reconcile: Reconcile
) -> None:
    """Reconcile all resources, and after each resynchronisation those that its changes affect.

    Args:
        cluster: the connection to the API server.
        namespaces: the namespaces that the operator watches; all when empty.
        router: stores what is listed.
        loop: the reconcile loop.
        reconcile: reconciles one resource.
    """
    await load_store(cluster, namespaces, router)
    running = asyncio.create_task(loop.run(reconcile))
    try:
        await asyncio.sleep(0)  # the loop accepts keys once it runs
        for kind in OURS:
            for key in router.store.keys(kind.name):
                loop.enqueue(key)
        while not running.done():
            await _wait_for_resync(cluster, running)
            for key in await load_store(cluster, namespaces, router):
                loop.enqueue(key)
            loop.retry_failed()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _wait_for_resync(cluster: Cluster, running: asyncio.Task[None]) -> None:
    interrupted = asyncio.create_task(cluster.interrupted.wait())
    try:
        await asyncio.wait([running, interrupted], timeout=RESYNC_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.done():
            await asyncio.sleep(RECONNECT_SECONDS)
    finally:
        interrupted.cancel()
