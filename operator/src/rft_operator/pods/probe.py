"""A client that asks pods over HTTP for state that Kubernetes does not know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from typing import TypeVar

import httpx

from rft_api.foreign.http import Answer, ForeignAnswerError, ask
from rft_api.model import Json
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.slots import Slots

ASK_SECONDS = 3.0
"""Deadline of a GET request, for the whole answer."""
MAXIMUM_BYTES = 64 << 10
"""Largest answer. Those of our own programs have at most some KiB; a pod may run an image of its tenant's."""
KEPT_CHARACTERS = 1000
"""Largest number of characters of a response that a message quotes."""

Result = TypeVar("Result")


class PodClient:
    """Sends requests to pods. A pod that does not answer is not an error: the next reconciliation asks again.

    Args:
        client: the client.
        slots: the slots of reconciliations, which do not keep theirs while they wait for pods.
    """

    def __init__(self, client: httpx.AsyncClient, slots: Slots):
        self._client = client
        self._slots = slots

    async def gather(self, questions: Iterable[Awaitable[Result]]) -> list[Result]:
        """Wait for the answers to questions that are asked at the same time, without a slot; return them in order."""
        asked = list(questions)
        if not asked:
            return []  # giving the slot away would only make the caller wait
        async with self._slots.lent():
            return await asyncio.gather(*asked)

    async def get(self, pod: PodView, port: int, path: str, any_status: bool = False) -> Answer | None:
        """Return the response to a GET request, or None when the pod gives none that can be used.

        Args:
            pod: the pod.
            port: the port.
            path: the path.
            any_status: whether responses with another status than 200 are returned, too.
        """
        try:
            answer = await ask(self._client, "GET", f"{_origin(pod, port)}{path}", ASK_SECONDS, MAXIMUM_BYTES)
        except ForeignAnswerError:
            return None
        return answer if any_status or answer.status == 200 else None

    async def post(self, pod: PodView, port: int, path: str, body: Json, seconds: float) -> Answer:
        """Return the response to a POST request.

        Args:
            pod: the pod.
            port: the port.
            path: the path.
            body: the JSON body.
            seconds: the deadline, for the whole answer.

        Raises:
            ForeignAnswerError: when the pod gives no answer that can be used.
        """
        content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        url = f"{_origin(pod, port)}{path}"
        return await ask(self._client, "POST", url, seconds, MAXIMUM_BYTES, content=content, headers=headers)


def _origin(pod: PodView, port: int) -> str:
    ip = pod.ip or ""
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
