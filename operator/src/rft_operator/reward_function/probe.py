"""Asks reward servers why they are not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pydantic import ValidationError

from rft_api.readiness import READINESS_PATH, Readiness
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import PodClient
from rft_operator.reward_function.names import REWARD_PORT


async def ask_readiness(client: PodClient, pods: Iterable[PodView]) -> dict[str, Readiness]:
    """Why reward servers that run are not ready, by pod."""
    asked = [pod for pod in pods if pod.ip and pod.phase == "Running" and not pod.ready and not pod.ended]
    answers = await asyncio.gather(*(client.get(pod, REWARD_PORT, READINESS_PATH, any_status=True) for pod in asked))
    return {
        pod.name: readiness
        for pod, answer in zip(asked, answers, strict=True)
        if answer is not None and (readiness := _parse(answer.text)) is not None and not readiness.ready
    }


def _parse(text: str) -> Readiness | None:
    try:
        return Readiness.model_validate_json(text)
    except ValidationError:
        return None
