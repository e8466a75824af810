"""A client that asks pods over HTTP for state that Kubernetes does not know."""

from __future__ import annotations

import httpx

from rft_api.model import Json
from rft_operator.pods.pod_view import PodView

ASK_SECONDS = 3.0
"""Timeout of a GET request."""
KEPT_CHARACTERS = 1000
"""Largest number of characters of a response that a message quotes."""


class PodClient:
    """Sends requests to pods. A pod that does not answer is not an error: the next reconciliation asks again."""

    def __init__(self, client: httpx.AsyncClient):
        self._client = client

    async def get(self, pod: PodView, port: int, path: str, any_status: bool = False) -> httpx.Response | None:
        """Return the response to a GET request, or None when the pod does not answer.

        Args:
            pod: the pod.
            port: the port.
            path: the path.
            any_status: whether responses with another status than 200 are returned, too.
        """
        try:
            response = await self._client.get(f"{_origin(pod, port)}{path}", timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return None
        return response if any_status or response.status_code == 200 else None

    async def post(self, pod: PodView, port: int, path: str, body: Json, seconds: float) -> httpx.Response:
        """Return the response to a POST request.

        Args:
            pod: the pod.
            port: the port.
            path: the path.
            body: the JSON body.
            seconds: the timeout.

        Raises:
            httpx.HTTPError: when the pod does not answer in time.
        """
        return await self._client.post(f"{_origin(pod, port)}{path}", json=body, timeout=seconds)


def _origin(pod: PodView, port: int) -> str:
    ip = pod.ip or ""
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
