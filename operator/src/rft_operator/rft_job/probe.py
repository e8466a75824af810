"""Ask the trainer for the progress of a run."""

from __future__ import annotations

from collections.abc import Iterable

from rft_api.foreign.text import one_line
from rft_api.progress import Progress
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import PodClient
from rft_operator.rft_job.names import PROGRESS_PORT


async def ask_progress(client: PodClient, pods: Iterable[PodView]) -> Progress | None:
    """Return the progress of a run from the pod of rank 0, or None when the pod does not answer."""
    responses = await client.ask_all(asked_pods(pods), lambda pod: client.get(pod, PROGRESS_PORT, "/progress"))
    try:
        return next((_parse(response.body) for response in responses if response is not None), None)
    except ValueError:
        return None


def asked_pods(pods: Iterable[PodView]) -> list[PodView]:
    """Return the pod of rank 0, where it can be asked."""
    return [pod for pod in pods if pod.index == 0 and pod.active and pod.running_since and pod.ip][:1]


def _parse(body: bytes) -> Progress:
    progress = Progress.model_validate_json(body)
    verdict = progress.reward_hacking
    if verdict is not None:
        verdict = verdict.model_copy(update={"message": one_line(verdict.message)})
    memory = progress.memory
    if memory is not None:
        memory = memory.model_copy(update={"message": one_line(memory.message)})
    texts = {"message": one_line(progress.message), "detail": one_line(progress.detail)}
    return progress.model_copy(update={**texts, "reward_hacking": verdict, "memory": memory})
