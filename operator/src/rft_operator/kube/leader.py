"""Leader election: of several replicas, the one that holds the Lease acts; the others watch and wait.

A replica that cannot renew ends its process, well before another may take over. On a requested end it gives the Lease
back, and the next leader takes it within seconds.
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
"""How long a Lease that nobody renews stays its holder's."""
RENEW_SECONDS = 10
"""How long the holder goes on without having renewed."""
RETRY_SECONDS = 2


class LeadershipLost(Exception):
    """This replica could not renew the Lease in time and must not act any more."""


@dataclass(frozen=True)
class Sighting:
    """A version of the Lease and when it was first seen, by our own clock: others' clocks are not trusted."""

    version: str
    at: float


def may_take(lease: Json, identity: str, sighting: Sighting, now: float) -> bool:
    """Whether the Lease is ours, free, or has not been renewed for its duration."""
    spec = lease.get("spec", {})
    holder = spec.get("holderIdentity")
    duration = spec.get("leaseDurationSeconds", LEASE_SECONDS)
    return not holder or holder == identity or now >= sighting.at + duration


class Election:
    """Competes for the Lease."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str):
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._sighting = Sighting("", 0.0)

    async def lead(self, act: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, then acts for as long as it is held.

        Raises:
            LeadershipLost: when it could not be renewed.
        """
        while not await self._try():
            await asyncio.sleep(RETRY_SECONDS)
        log.info("this replica leads")
        acting = asyncio.ensure_future(act())
        try:
            renewed = time.monotonic()
            while not acting.done():
                await asyncio.wait([acting], timeout=RETRY_SECONDS)
                asked = time.monotonic()
                if await self._try():
                    renewed = asked
                elif time.monotonic() > renewed + RENEW_SECONDS:
                    raise LeadershipLost(f"the Lease could not be renewed for {RENEW_SECONDS} s")
            await acting
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
            await self._release()

    async def _try(self) -> bool:
        """Takes or renews the Lease; false when it is another's, or the API server cannot be asked."""
        try:
            async with asyncio.timeout(RENEW_SECONDS / 2):
                lease = await self._cluster.get(LEASE.name, self._namespace, names.LEASE)
                if lease is None:
                    await self._cluster.create(self._lease(None))
                    return True
                version = lease["metadata"]["resourceVersion"]
                if version != self._sighting.version:
                    self._sighting = Sighting(version, time.monotonic())
                if not may_take(lease, self._identity, self._sighting, time.monotonic()):
                    return False
                await self._cluster.replace(self._lease(lease))
                return True
        except Conflict:
            return False
        except (Unavailable, TimeoutError) as error:
            log.warning("the Lease cannot be had: %s", error or "no answer")
            return False

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                lease = await self._cluster.get(LEASE.name, self._namespace, names.LEASE)
                if lease is not None and lease.get("spec", {}).get("holderIdentity") == self._identity:
                    await self._cluster.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})
        except (Conflict, Unavailable, TimeoutError):
            log.info("the Lease could not be given back; it expires")

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
