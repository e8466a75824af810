"""Asks reward servers why they are not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import KEPT_CHARACTERS, PodClient
from rft_operator.reward_function.names import REWARD_PORT


async def ask_readiness(client: PodClient, pods: Iterable[PodView]) -> dict[str, str]:
    """Why reward servers that run are not ready, by pod."""
    asked = [pod for pod in pods if pod.ip and pod.phase == "Running" and not pod.ready and not pod.ended]
    answers = await asyncio.gather(*(client.get(pod, REWARD_PORT, "/readyz", any_status=True) for pod in asked))
    return {
        pod.name: answer.text.strip()[:KEPT_CHARACTERS]
        for pod, answer in zip(asked, answers, strict=True)
        if answer is not None and answer.status_code == 503
    }
