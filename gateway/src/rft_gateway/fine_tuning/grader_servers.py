"""The reward servers that run graders: RewardFunctions of the namespace, made for a grader, and deleted later.

A RewardFunction is named after its spec, so that the same grader has the same server. Each gateway deletes what nobody
has used for a while, whichever gateway has made it.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Sequence
from typing import Final

from rft_api.model import Json
from rft_api.object_labels import (
    COMPONENT,
    FINE_TUNING_RUN,
    FINE_TUNING_USED,
    MANAGED_BY,
    OPERATOR,
    OWNER,
    REWARD_SERVER,
)
from rft_api.object_names import reward_server
from rft_api.resource import API_VERSION
from rft_gateway.cluster.api_server import ApiServer, Expired, Resource, Unavailable
from rft_gateway.cluster.objects import read_slice
from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.cluster_errors import explained

FUNCTIONS: Final = Resource("RewardFunction", API_VERSION, "rewardfunctions")
MOST: Final = 4
"""Number of graders of a namespace that have servers at the same time."""
UNUSED_SECONDS: Final = 600.0
"""Time after which a server is deleted that no run has used."""
_REPLACED_SECONDS = 60.0
"""Time after which the server that was used longest ago makes room for that of another grader."""
_NOTED_SECONDS = 30.0
"""A run is noted if the last one that was noted is older."""
_RUNS = Resource("RewardFunction", API_VERSION, "rewardfunctions", f"{FINE_TUNING_RUN}=true")
_logger = logging.getLogger(__name__)


class GraderServers:
    """The reward servers of a cluster. Every method raises ApiError, as those of the store of jobs do.

    Args:
        server: the API server.
    """

    def __init__(self, server: ApiServer):
        self._server = server

    async def function(self, namespace: str, name: str) -> Json | None:
        """Return a RewardFunction, or None when there is none."""
        with explained():
            return await self._server.get(FUNCTIONS, namespace, name)

    async def require(self, function: Json) -> None:
        """Create the RewardFunction of a grader, unless it is there, and note that it is used.

        Raises:
            ApiError: 429 when the namespace runs too many other graders.
        """
        metadata = function["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        now = time.time()
        used = {"metadata": {"annotations": {FINE_TUNING_USED: f"{now:.0f}"}}}
        with explained():
            existing = await self._server.get(FUNCTIONS, namespace, name)
            if existing is not None:
                if now - _used(existing) > _NOTED_SECONDS:
                    await self._server.patch(FUNCTIONS, namespace, name, used)
                return
            others = [item async for page in self._server.list(_RUNS, namespace) for item in page.items]
            if len(others) >= MOST:
                oldest = min(others, key=_used)
                if now - _used(oldest) < _REPLACED_SECONDS:
                    message = f"Namespace {namespace} runs {len(others)} other graders now, and may run {MOST}."
                    raise ApiError(429, message, code="too_many_graders", headers={"retry-after": "15"})
                await self._server.delete(FUNCTIONS, namespace, oldest["metadata"]["name"])
            labels = {**metadata["labels"], FINE_TUNING_RUN: "true"}
            made = {**function, "metadata": {**metadata, "labels": labels, **used["metadata"]}}
            await self._server.create(FUNCTIONS, namespace, made)

    async def address(self, namespace: str, name: str) -> tuple[str, str] | None:
        """Return the URL of a pod of a RewardFunction's server, and its token; None while there is none.

        The pods of the Service are asked, and not the URL in the status: whoever may write that could have the gateway
        send the token anywhere.
        """
        own = f"{MANAGED_BY}={OPERATOR},{COMPONENT}={REWARD_SERVER},{OWNER}={name}"
        slices = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", own)
        secrets = Resource("Secret", "v1", "secrets", own)
        with explained():
            parts = [item async for page in self._server.list(slices, namespace) for item in page.items]
            tokens = [item async for page in self._server.list(secrets, namespace) for item in page.items]
        try:
            servers = [part for part in map(read_slice, parts) if part.service == reward_server(name)]
            token = next((base64.b64decode(item["data"]["token"]).decode().strip() for item in tokens), None)
        except (KeyError, TypeError, ValueError) as error:
            _logger.warning("RewardFunction %s/%s: %s", namespace, name, error)
            return None
        url = next((url for server in servers for url in server.urls), None)
        return (url, token) if url is not None and token is not None else None

    async def remove_unused(self, namespaces: Sequence[str]) -> None:
        """Delete the RewardFunctions that no run has used for `UNUSED_SECONDS`; what goes wrong is logged.

        Args:
            namespaces: where; everywhere if there is none.
        """
        before = time.time() - UNUSED_SECONDS
        try:
            for scope in namespaces or (None,):
                async for page in self._server.list(_RUNS, scope):
                    for item in page.items:
                        if _used(item) < before:
                            metadata = item["metadata"]
                            await self._server.delete(FUNCTIONS, metadata["namespace"], metadata["name"])
        except (Unavailable, Expired) as error:
            _logger.warning("RewardFunctions of runs that have ended are not deleted: %s", error)


def _used(function: Json) -> float:
    """Return the Unix time of the last run that was noted; 0 for a time that somebody has put into its place."""
    text = str((function["metadata"].get("annotations") or {}).get(FINE_TUNING_USED, ""))
    return float(text) if text.isdecimal() and len(text) < 16 else 0.0
