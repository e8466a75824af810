"""The cluster as the source of models and keys, and the place where endpoints are woken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from rft_api.gateway_demand import WAKE_ANNOTATION
from rft_gateway.cluster.api_server import ApiServer, ClusterError, Expired, Unavailable, connect
from rft_gateway.cluster.follower import Follower
from rft_gateway.cluster.objects import (
    ENDPOINTS,
    KEYS,
    LOG_CREDENTIALS,
    SLICES,
    credentials_bytes,
    endpoint_bytes,
    key_bytes,
    make_routes,
    merge_dated_keys,
    read_credentials,
    read_endpoint,
    read_key,
    read_slice,
    slice_bytes,
)
from rft_gateway.keys import KeyRing
from rft_gateway.logs import Stores
from rft_gateway.routes import RouteTable

__all__ = ["ClusterError", "ClusterSource", "open_cluster"]

PAUSE_SECONDS = 0.25
"""Least time between two readings of what has changed: a thousand endpoints may change at once."""
_logger = logging.getLogger(__name__)


class ClusterSource:
    """Keeps models, keys and credentials of logs as they are in the cluster.

    Args:
        server: the API server.
        namespaces: the namespaces whose endpoints and keys count; all if there is none.
        routes: gets the models.
        keys: gets the keys.
        stores: gets the credentials of logs.
    """

    def __init__(self, server: ApiServer, namespaces: Sequence[str], routes: RouteTable, keys: KeyRing, stores: Stores):
        self.server = server
        """The API server."""
        self._routes = routes
        self._keys = keys
        self._stores = stores
        self._models_changed = asyncio.Event()
        self._keys_changed = asyncio.Event()
        scopes: list[str | None] = [*namespaces] or [None]
        changed = self._models_changed.set
        self._endpoints = [
            Follower(server, ENDPOINTS, scope, read_endpoint, endpoint_bytes, changed) for scope in scopes
        ]
        self._slices = [Follower(server, SLICES, scope, read_slice, slice_bytes, changed) for scope in scopes]
        keys_changed = self._keys_changed.set
        self._secrets = [Follower(server, KEYS, scope, read_key, key_bytes, keys_changed) for scope in scopes]
        take = self._take_credentials
        self._credentials = [
            Follower(server, LOG_CREDENTIALS, scope, read_credentials, credentials_bytes, take) for scope in scopes
        ]

    async def follow(self) -> None:
        """Follow until the task is cancelled."""
        async with asyncio.TaskGroup() as group:
            for followers in (self._endpoints, self._slices, self._secrets, self._credentials):
                for follower in followers:
                    group.create_task(follower.run())
            group.create_task(_call_after(self._models_changed, self._take_models))
            group.create_task(_call_after(self._keys_changed, self._take_keys))

    async def wake(self, namespace: str, endpoint: str) -> None:
        """Ask the operator for a server pod of an endpoint. What goes wrong is logged: who waits asks again."""
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            await self.server.annotate(ENDPOINTS, namespace, endpoint, {WAKE_ANNOTATION: now})
        except (Unavailable, Expired) as error:
            _logger.warning("InferenceEndpoint %s/%s cannot be woken: %s", namespace, endpoint, error)

    def _take_models(self) -> None:
        if not all(each.is_complete for each in self._endpoints) or not all(each.is_complete for each in self._slices):
            return
        endpoints = [each for follower in self._endpoints for each in follower.objects.values()]
        slices = [each for follower in self._slices for each in follower.objects.values()]
        self._routes.replace(*make_routes(endpoints, slices))

    def _take_keys(self) -> None:
        if not all(follower.is_complete for follower in self._secrets):
            return
        keys, errors = merge_dated_keys(each for follower in self._secrets for each in follower.objects.values())
        self._keys.replace(keys, errors)

    def _take_credentials(self) -> None:
        self._stores.set_credentials({
            name: variables for follower in self._credentials for name, variables in follower.objects.items()
        })  # fmt: skip


@asynccontextmanager
async def open_cluster(
    namespaces: Sequence[str], routes: RouteTable, keys: KeyRing, stores: Stores
) -> AsyncIterator[ClusterSource]:
    """Connect to the cluster.

    Raises:
        ClusterError: when there is no configuration for that.
    """
    async with connect() as server:
        yield ClusterSource(server, namespaces, routes, keys, stores)


async def _call_after(changed: asyncio.Event, take: Callable[[], None]) -> None:
    """Call a function at once after a change, and then at most once in a while."""
    while True:
        await changed.wait()
        changed.clear()
        take()
        await asyncio.sleep(PAUSE_SECONDS)
