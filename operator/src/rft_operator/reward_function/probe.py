"""Ask reward servers why they are not ready."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from rft_api.readiness import READINESS_PATH, Readiness
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import PodClient
from rft_operator.reward_function.names import REWARD_PORT


async def ask_readiness(client: PodClient, pods: Iterable[PodView]) -> dict[str, Readiness]:
    """Return the readiness of reward servers that are running but not ready, by the names of their pods."""
    asked = [pod for pod in pods if pod.ip and pod.phase == "Running" and not pod.ready and not pod.terminated]
    responses = await client.gather(client.get(pod, REWARD_PORT, READINESS_PATH, any_status=True) for pod in asked)
    return {
        pod.name: readiness
        for pod, response in zip(asked, responses, strict=True)
        if response is not None and (readiness := _parse(response.body)) is not None and not readiness.ready
    }


def _parse(body: bytes) -> Readiness | None:
    try:
        return Readiness.model_validate_json(body)
    except ValidationError:
        return None
