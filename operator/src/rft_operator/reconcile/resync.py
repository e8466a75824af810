"""Reads everything anew: when a replica begins to lead, after an outage, and from time to time.

Watches may have lost something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from rft_api.resource import API_VERSION
from rft_operator.kube.cluster import Cluster, Unavailable
from rft_operator.kube.kinds import OURS, WATCHED
from rft_operator.kube.store import Key, key_of
from rft_operator.reconcile.loop import Loop, Pass
from rft_operator.reconcile.routing import Router

log = logging.getLogger(__name__)

RESYNC_SECONDS = 600.0
RECONNECT_SECONDS = 5.0
"""Time that watches have to begin anew after an interruption; what is read anew sooner may miss something, too."""
RETRY_SECONDS = 2.0


async def wait_for_definitions(cluster: Cluster) -> None:
    """Waits until the API server knows our resources: kopf watches those that are there when it starts."""
    while True:
        try:
            missing = sorted({kind.plural for kind in OURS} - await cluster.served(API_VERSION))
        except Unavailable as error:
            log.warning("the API server cannot be asked, trying again: %s", error)
        else:
            if not missing:
                return
            log.warning("waiting for the custom resource definitions of %s; apply them", ", ".join(missing))
        await asyncio.sleep(RETRY_SECONDS)


async def load_store(cluster: Cluster, namespaces: Sequence[str], router: Router) -> list[Key]:
    """Brings the store to what the API server has; returns the objects of ours that this may concern."""
    while True:
        cluster.interrupted.clear()
        try:
            return await _list_all(cluster, namespaces, router)
        except Unavailable as error:
            log.warning("everything cannot be read anew, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _list_all(cluster: Cluster, namespaces: Sequence[str], router: Router) -> list[Key]:
    changed: list[Key] = []
    for kind in sorted(WATCHED, key=lambda kind: kind.ours):  # children before what they belong to
        for namespace in namespaces or (None,):
            changed += await _list_kind(cluster, namespace, router, kind.name)
    return changed


async def _list_kind(cluster: Cluster, namespace: str | None, router: Router, kind: str) -> list[Key]:
    keys: list[Key] = []
    listed: set[Key] = set()
    version = 0
    async for page, read_at in cluster.list(kind, namespace):
        version = read_at
        for obj in page:
            listed.add(key_of(kind, obj))
            keys += router.take_event(kind, None, obj)
    for obj in router.store.prune(kind, namespace, listed, version):
        keys += router.concerned(kind, obj)
    return keys


async def run_loop(cluster: Cluster, namespaces: Sequence[str], router: Router, loop: Loop, run_pass: Pass) -> None:
    """Runs the loop over everything that there is, and over what each resync finds changed.

    Args:
        cluster: the connection.
        namespaces: those that are looked after; all when empty.
        router: takes over what is read.
        loop: runs the passes.
        run_pass: looks at one object.
    """
    await load_store(cluster, namespaces, router)
    running = asyncio.create_task(loop.run(run_pass))
    try:
        await asyncio.sleep(0)  # the loop takes wake-ups once it runs
        for kind in OURS:
            for key in router.store.keys(kind.name):
                loop.wake(key)
        while not running.done():
            await _wait_for_resync(cluster, running)
            for key in await load_store(cluster, namespaces, router):
                loop.wake(key)
            loop.retry()
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
