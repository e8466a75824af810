"""Read nodes by a label. They are not watched, because their status changes all the time and is of little use here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from rft_api.model import Json
from rft_operator.kube.cluster import Cluster
from rft_operator.kube.kinds import NODE

KEPT_SECONDS = 30.0
"""Seconds for which a list is used again: a thousand jobs that start at the same time read it once."""


class Nodes:
    """The nodes of the cluster, without what nobody here reads.

    Args:
        cluster: the connection to the API server.
        clock: returns a time in seconds.
    """

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic):
        self._cluster = cluster
        self._clock = clock
        self._lists: dict[str, tuple[float, Sequence[Json]]] = {}
        self._reading = asyncio.Lock()

    async def labelled(self, label: str) -> Sequence[Json]:
        """Return the nodes that have a label.

        Raises:
            Denied: when the operator may not list nodes.
            Unavailable: when the API server cannot be reached.
        """
        async with self._reading:
            now = self._clock()
            self._lists = {name: kept for name, kept in self._lists.items() if now - kept[0] < KEPT_SECONDS}
            if label not in self._lists:
                pages = [items async for items, _ in self._cluster.list(NODE.name, None, label)]
                self._lists[label] = now, [_of_use(node) for items in pages for node in items]
            return self._lists[label][1]


def _of_use(node: Json) -> Json:
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    return {
        "metadata": {"name": metadata["name"], "labels": metadata.get("labels", {})},
        "spec": {"taints": spec.get("taints", [])},
        "status": {"allocatable": status.get("allocatable", {})},
    }
