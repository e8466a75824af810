"""Asks pods what Kubernetes does not know: a run's progress, why a reward is not ready, whether a model answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
from pydantic import ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.progress import Progress
from rft_operator.inference_endpoint.plan import AdapterReport, ServerAnswer
from rft_operator.kube import names
from rft_operator.pods.pod_view import PodView

ASK_SECONDS = 3.0
ANSWER_SECONDS = 30.0
"""Time that a model has for one token."""
KEPT_CHARACTERS = 1000


class Probes:
    """Asks pods over HTTP. A pod that does not answer is no error: the next pass asks again."""

    def __init__(self, client: httpx.AsyncClient):
        self._client = client

    async def ask_progress(self, pods: Iterable[PodView]) -> Progress | None:
        """Where a run stands, as its rank 0 says."""
        pod = next((pod for pod in pods if pod.index == 0 and pod.active and pod.running_since and pod.ip), None)
        if pod is None:
            return None
        answer = await self._get(pod, names.PROGRESS_PORT, "/progress")
        try:
            return None if answer is None else Progress.model_validate_json(answer.text)
        except ValidationError:
            return None

    async def ask_readiness(self, pods: Iterable[PodView]) -> dict[str, str]:
        """Why reward servers that run are not ready, by pod."""
        asked = [pod for pod in pods if pod.ip and pod.phase == "Running" and not pod.ready and not pod.ended]
        answers = await asyncio.gather(
            *(self._get(pod, names.REWARD_PORT, "/readyz", any_status=True) for pod in asked)
        )
        return {
            pod.name: answer.text.strip()[:KEPT_CHARACTERS]
            for pod, answer in zip(asked, answers, strict=True)
            if answer is not None and answer.status_code == 503
        }

    async def ask_servers(
        self, pods: Iterable[PodView], endpoint: InferenceEndpoint, known: bool
    ) -> dict[str, ServerAnswer]:
        """What ready server pods answer for an endpoint's model; one that is known to answer is only listed."""
        asked = [pod for pod in pods if pod.ip and pod.ready and not pod.deleting]
        answers = await asyncio.gather(*(self._ask_server(pod, endpoint, known) for pod in asked))
        return dict(zip((pod.name for pod in asked), answers, strict=True))

    async def _ask_server(self, pod: PodView, endpoint: InferenceEndpoint, known: bool) -> ServerAnswer:
        name, report = endpoint.metadata.name, None
        if endpoint.spec.adapter is not None:
            report = await self._ask_loader(pod, name)
            if report is None or report.state != "Loaded":
                return ServerAnswer("the adapter is not loaded", report)
        problem = await (self._find_listed(pod, name) if known else self._find_answering(pod, name))
        return ServerAnswer(problem, report)

    async def _ask_loader(self, pod: PodView, name: str) -> AdapterReport | None:
        answer = await self._get(pod, names.LOADER_PORT, "/adapters")
        try:
            reports: list[Any] = [] if answer is None else answer.json()["adapters"]
            found = next((report for report in reports if report["name"] == name), None)
            return found and AdapterReport(found["uri"], found["state"], found.get("message", ""))
        except (ValueError, KeyError, TypeError):
            return None

    async def _find_listed(self, pod: PodView, name: str) -> str | None:
        answer = await self._get(pod, names.SERVER_PORT, "/v1/models")
        try:
            listed = [model["id"] for model in answer.json()["data"]] if answer is not None else []
        except (ValueError, KeyError, TypeError):
            listed = []
        return None if name in listed else f"the server does not list {name}"

    async def _find_answering(self, pod: PodView, name: str) -> str | None:
        body = {"model": name, "prompt": "Hello", "max_tokens": 1}
        try:
            url = f"{_origin(pod, names.SERVER_PORT)}/v1/completions"
            answer = await self._client.post(url, json=body, timeout=ANSWER_SECONDS)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}".rstrip(": ")
        return None if answer.status_code == 200 else f"HTTP {answer.status_code}: {answer.text[:KEPT_CHARACTERS]}"

    async def _get(self, pod: PodView, port: int, path: str, any_status: bool = False) -> httpx.Response | None:
        try:
            answer = await self._client.get(f"{_origin(pod, port)}{path}", timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return None
        return answer if any_status or answer.status_code == 200 else None


def _origin(pod: PodView, port: int) -> str:
    ip = pod.ip or ""
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"
