"""Leader election: the replica that holds the Lease reconciles; the others watch and wait.

A leader that cannot renew the Lease ends its process well before another replica may acquire it. A leader that is told
to stop releases the Lease, and another replica acquires it within seconds. The times are the defaults of
kube-controller-manager: --leader-elect-lease-duration, --leader-elect-renew-deadline, --leader-elect-retry-period.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rft_api.model import Json
from rft_operator.kube import names
from rft_operator.kube.cluster import Cluster, Conflict, Unavailable
from rft_operator.kube.kinds import LEASE

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
"""Seconds after which a Lease that was not renewed may be acquired by another replica."""
RENEW_SECONDS = 10
"""Seconds for which a leader continues without having renewed the Lease."""
RETRY_SECONDS = 2
"""Seconds between two attempts to acquire or renew the Lease."""


class LeadershipLost(Exception):
    """Raised when this replica could not renew the Lease in time and must not reconcile any more."""


@dataclass(frozen=True)
class ObservedLease:
    """A version of the Lease, and when this replica first observed it.

    The time is that of this replica's own clock, because the clocks of other machines may differ.
    """

    version: str
    time: float


def may_acquire(lease: Json, identity: str, observed: ObservedLease, now: float) -> bool:
    """Return whether the Lease is ours, is free, or has not been renewed for its duration."""
    spec = lease.get("spec", {})
    holder = spec.get("holderIdentity")
    duration = spec.get("leaseDurationSeconds", LEASE_SECONDS)
    return not holder or holder == identity or now >= observed.time + duration


class Election:
    """The election in which this replica takes part.

    Args:
        cluster: the connection to the API server.
        namespace: the namespace of the Lease.
        identity: the name of this replica.
    """

    def __init__(self, cluster: Cluster, namespace: str, identity: str):
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._observed = ObservedLease("", 0.0)

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then do the work of a leader for as long as this replica holds it.

        Raises:
            LeadershipLost: when the Lease could not be renewed.
        """
        while not await self._acquire():
            await asyncio.sleep(RETRY_SECONDS)
        log.info("this replica leads")
        task = asyncio.ensure_future(work())
        try:
            renewed = time.monotonic()
            while not task.done():
                await asyncio.wait([task], timeout=RETRY_SECONDS)
                requested = time.monotonic()
                if await self._acquire():
                    renewed = requested
                elif time.monotonic() > renewed + RENEW_SECONDS:
                    raise LeadershipLost(f"the Lease could not be renewed for {RENEW_SECONDS} s")
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._release()

    async def _acquire(self) -> bool:
        """Acquire or renew the Lease; return False when another replica holds it or the API server is unavailable."""
        try:
            async with asyncio.timeout(RENEW_SECONDS / 2):
                lease = await self._cluster.get(LEASE.name, self._namespace, names.LEASE)
                if lease is None:
                    await self._cluster.create(self._lease(None))
                    return True
                version = lease["metadata"]["resourceVersion"]
                if version != self._observed.version:
                    self._observed = ObservedLease(version, time.monotonic())
                if not may_acquire(lease, self._identity, self._observed, time.monotonic()):
                    return False
                await self._cluster.replace(self._lease(lease))
                return True
        except Conflict:
            return False
        except (Unavailable, TimeoutError) as error:
            log.warning("the Lease cannot be acquired: %s", error or "no answer")
            return False

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                lease = await self._cluster.get(LEASE.name, self._namespace, names.LEASE)
                if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                    await self._cluster.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except (Conflict, Unavailable, TimeoutError):
            log.info("the Lease could not be released; it expires")

    def _lease(self, before: Json | None) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = before.get("spec", {}) if before is not None else {}
        ours = spec.get("holderIdentity") == self._identity
        metadata = before["metadata"] if before is not None else {"name": names.LEASE, "namespace": self._namespace}
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if ours else 1),
            },
        }
