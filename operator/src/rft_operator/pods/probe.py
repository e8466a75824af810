"""Asks pods over HTTP what Kubernetes does not know."""

from __future__ import annotations

import httpx

from rft_api.model import Json
from rft_operator.pods.pod_view import PodView

ASK_SECONDS = 3.0
KEPT_CHARACTERS = 1000
"""Characters of an answer that go into a message."""


class PodClient:
    """Asks pods. A pod that does not answer is no error: the next pass asks again."""

    def __init__(self, client: httpx.AsyncClient):
        self._client = client

    async def get(self, pod: PodView, port: int, path: str, any_status: bool = False) -> httpx.Response | None:
        """The answer to a GET; None without one, or when its status is not 200 unless any status will do."""
        try:
            answer = await self._client.get(f"{_origin(pod, port)}{path}", timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return None
        return answer if any_status or answer.status_code == 200 else None

    async def post(self, pod: PodView, port: int, path: str, body: Json, seconds: float) -> httpx.Response:
        """The answer to a POST.

        Raises:
            httpx.HTTPError: when there is none within so many seconds.
        """
        return await self._client.post(f"{_origin(pod, port)}{path}", json=body, timeout=seconds)


def _origin(pod: PodView, port: int) -> str:
    ip = pod.ip or ""
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
