"""A client that asks pods over HTTP for state that Kubernetes does not know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import httpx

from rft_api.foreign.http import Answer, ForeignAnswerError, ask
from rft_api.model import Json
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.silence import Question, Silences
from rft_operator.pods.slots import Limits

ASK_SECONDS = 3.0
"""Deadline of a GET request, for the whole answer."""
MAXIMUM_BYTES = 64 << 10
"""Largest answer. Those of our own programs have at most some KiB; a pod may run an image of its tenant's."""
KEPT_CHARACTERS = 1000
"""Largest number of characters of a response that a message quotes."""

Result = TypeVar("Result")


class PodClient:
    """Sends requests to pods. A pod that does not answer is not an error: a later reconciliation asks again.

    Args:
        client: the client.
        limits: how many connections there are at the same time, and how many reconciliations work.
    """

    def __init__(self, client: httpx.AsyncClient, limits: Limits):
        self._client = client
        self._limits = limits
        self._silences = Silences()

    def seconds_of_silence(self, pods: Sequence[PodView]) -> float:
        """Return the seconds for which it is of no use to ask any of these pods, because none answers; else 0."""
        return self._silences.seconds_left(pods)

    async def ask_all(self, pods: Sequence[PodView], question: Callable[[PodView], Awaitable[Result]]) -> list[Result]:
        """Ask the pods of one namespace at the same time, and return their answers in order.

        Meanwhile the calling reconciliation does not count as working.

        Args:
            pods: the pods.
            question: asks one pod.
        """
        if not pods:
            return []  # lending the slot would only make the caller wait
        namespace = pods[0].namespace

        async def ask_one(pod: PodView) -> Result:
            async with self._limits.connections.held(namespace):
                return await question(pod)

        async with self._limits.working.lent(namespace):
            return await asyncio.gather(*(ask_one(pod) for pod in pods))

    async def get(self, pod: PodView, port: int, path: str, any_status: bool = False) -> Answer | None:
        """Return the response to a GET request, or None when the pod gives none that can be used.

        Args:
            pod: the pod.
            port: the port.
            path: the path.
            any_status: whether responses with another status than 200 are returned, too.
        """
        try:
            answer = await self._ask(pod, Question(port, path, None), ASK_SECONDS)
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
        return await self._ask(pod, Question(port, path, json.dumps(body).encode()), seconds)

    async def _ask(self, pod: PodView, question: Question, seconds: float) -> Answer:
        problem = self._silences.problem(pod, question)
        if problem is not None:
            raise ForeignAnswerError(problem)
        url = f"{_origin(pod, question.port)}{question.path}"
        method, headers = ("GET", {}) if question.body is None else ("POST", {"content-type": "application/json"})
        try:
            answer = await ask(
                self._client, method, url, seconds, MAXIMUM_BYTES, content=question.body, headers=headers
            )
        except ForeignAnswerError as error:
            self._silences.begin(pod, question, str(error))
            raise
        self._silences.end(pod, question)
        return answer


def _origin(pod: PodView, port: int) -> str:
    ip = pod.ip or ""
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
