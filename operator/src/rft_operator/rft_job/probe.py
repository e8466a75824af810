"""Ask the trainer for the progress of a run."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from rft_api.progress import Progress
from rft_operator.pods.pod_view import PodView
from rft_operator.pods.probe import PodClient
from rft_operator.rft_job.names import PROGRESS_PORT


async def ask_progress(client: PodClient, pods: Iterable[PodView]) -> Progress | None:
    """Return the progress of a run from the pod of rank 0, or None when the pod does not answer."""
    pod = next((pod for pod in pods if pod.index == 0 and pod.active and pod.running_since and pod.ip), None)
    if pod is None:
        return None
    (response,) = await client.gather([client.get(pod, PROGRESS_PORT, "/progress")])
    try:
        return None if response is None else Progress.model_validate_json(response.body)
    except ValidationError:
        return None
