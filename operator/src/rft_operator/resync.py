"""Reads everything anew: when a replica begins to lead, and from time to time, in case a watch has lost something."""

from __future__ import annotations

import asyncio
import logging

from rft_operator.apply import SELECTOR
from rft_operator.cluster import UNAVAILABLE, Cluster
from rft_operator.loop import Loop, Pass
from rft_operator.store import CHILDREN, RESOURCES, Key, Store

log = logging.getLogger(__name__)

RESYNC_SECONDS = 600.0
RETRY_SECONDS = 2.0


async def load_store(cluster: Cluster, store: Store) -> list[Key]:
    """Brings the store to what the API server has; returns the objects of ours that this may concern."""
    while True:
        try:
            return await _list_all(cluster, store)
        except UNAVAILABLE as error:
            log.warning("everything cannot be read anew, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _list_all(cluster: Cluster, store: Store) -> list[Key]:
    changed: list[Key] = []
    for kind in (*CHILDREN, *RESOURCES):
        items, version = await cluster.list(kind, None, None if kind in RESOURCES else SELECTOR)
        changed += store.replace(kind, items, version)
    return changed


async def run_loop(cluster: Cluster, store: Store, loop: Loop, run_pass: Pass) -> None:
    """Runs the loop over everything that there is, and over what each resync finds changed."""
    await load_store(cluster, store)
    running = asyncio.create_task(loop.run(run_pass))
    try:
        await asyncio.sleep(0)  # the loop takes wake-ups once it runs
        for kind in RESOURCES:
            for key in store.keys(kind):
                loop.wake(key)
        while not running.done():
            await asyncio.wait([running], timeout=RESYNC_SECONDS)
            for key in await load_store(cluster, store):
                if key.kind in RESOURCES:
                    loop.wake(key)
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
