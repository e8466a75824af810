"""Delete pods in which only containers that others have added still run: the trainer has ended, and they hold GPUs.

A proxy that a webhook adds to a pod does not end with the trainer, so Kubernetes never ends the pod nor its Job.
"""

from __future__ import annotations

from datetime import timedelta

from rft_api.conditions import Reason, is_end
from rft_api.job_status import RFTJobStatus
from rft_operator.kube.kinds import POD
from rft_operator.kube.plan import Deletion
from rft_operator.pods.pod_view import PodView
from rft_operator.rft_job.attempts import Outcome
from rft_operator.rft_job.run_state import RunState
from rft_operator.rft_job.world import RFTJobWorld

LINGER_SECONDS = 30
"""Seconds after the end of the trainer in which the other containers of its pod may end by themselves."""
GRACE_SECONDS = 30
"""Seconds that the containers have to end when the pod is deleted; the pod's own grace is for the trainer."""
RECORD_SECONDS = 1.0
"""Seconds until the next reconciliation, when the status has to be written before a pod is deleted."""
_WHY = "its trainer has ended, and only containers that others have added still run in it"


def plan_leftovers(world: RFTJobWorld, before: RFTJobStatus, state: RunState) -> tuple[list[Deletion], float | None]:
    """Plan the deletion of pods whose trainer has ended, after the status has what they say of their end.

    Returns:
        The deletions, and the seconds until others are due; None when there are none.
    """
    if state.reason is Reason.RETRYING:
        return [], None  # its message is read from the pods
    recorded = not state.ended or any(is_end(condition.type, condition.status) for condition in before.conditions)
    decided = {attempt.uid for attempt in world.attempts if attempt.outcome is not Outcome.UNFINISHED}
    deletions, waits = [], []
    for pod in world.pods:
        if not pod.lingers or pod.deleting or pod.job_uid not in decided:
            continue
        wait = _seconds_left(pod, world)
        if wait <= 0 and recorded:
            deletions.append(Deletion(POD, pod.name, pod.uid, _WHY, GRACE_SECONDS))
        else:
            waits.append(max(wait, RECORD_SECONDS))
    return deletions, min(waits, default=None)


def _seconds_left(pod: PodView, world: RFTJobWorld) -> float:
    finished = pod.termination.finished_at if pod.termination is not None else None
    return 0.0 if finished is None else (finished + timedelta(seconds=LINGER_SECONDS) - world.now).total_seconds()
