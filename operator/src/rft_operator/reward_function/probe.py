"""Ask reward servers why they are not ready."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from rft_api.foreign.text import one_line
from rft_api.readiness import READINESS_PATH, Readiness
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import PodClient
from rft_operator.reward_function.names import REWARD_PORT
from rft_operator.status.conditions import MAXIMUM_MESSAGE

MOST_REASONS = 100
"""Largest number of reasons that are looked at: one for each test, and those of workers."""


async def ask_readiness(client: PodClient, pods: Iterable[PodView]) -> dict[str, Readiness]:
    """Return the readiness of reward servers that are running but not ready, by the names of their pods."""
    running_pods = asked_pods(pods)
    responses = await client.ask_all(
        running_pods, lambda pod: client.get(pod, REWARD_PORT, READINESS_PATH, any_status=True)
    )
    return {
        pod.name: readiness
        for pod, response in zip(running_pods, responses, strict=True)
        if response is not None and (readiness := _parse(response.body)) is not None and not readiness.ready
    }


def asked_pods(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pods that run and are not ready, which is all that Kubernetes reports about them."""
    return [pod for pod in pods if pod.ip and pod.phase == "Running" and not pod.ready and not pod.terminated]


def _parse(body: bytes) -> Readiness | None:
    try:
        readiness = Readiness.model_validate_json(body)
    except ValidationError:
        return None
    reasons = [
        each.model_copy(update={"message": one_line(each.message, MAXIMUM_MESSAGE)})
        for each in readiness.reasons[:MOST_REASONS]
    ]
    return readiness.model_copy(update={"reasons": reasons})
