"""Names, label keys and ports of the children of an RFTJob."""

from __future__ import annotations

from typing import Final

from rft_api.object_labels import ATTEMPT, CREATED_FOR, TRAINER
from rft_api.object_names import (
    base_endpoint,
    checkpoint_endpoint,
    memory_plan,
    run_configuration,
    trainer_service,
    training_job,
)

__all__ = [
    "ASK_WITH",
    "ATTEMPT",
    "CREATED_FOR",
    "PLANNER",
    "PLANS",
    "PROGRESS_PORT",
    "QUEUE",
    "RENDEZVOUS_PORT",
    "RETRIES_BEFORE",
    "TRAINER",
    "base_endpoint",
    "checkpoint_endpoint",
    "master_address",
    "memory_plan",
    "run_configuration",
    "trainer_service",
    "training_job",
]

PLANNER: Final = "memory-plan"
"""Name of the container that plans the memory of a run."""
PLANS: Final = "rft.dev/plans"
"""Label of the Job that plans before the first attempt, and of its pod, with what they plan: `memory`. The operator
does not read it: it is for people and policies."""
RETRIES_BEFORE: Final = "rft.dev/retries-before"
"""Annotation of a training Job with the number of failures before it that count against the limit of retries."""
ASK_WITH: Final = "rft.dev/ask-with"
"""Annotation of an InferenceEndpoint that the operator has created, with the `spec.sampling` of its RFTJob as JSON: how
the model has to be asked."""
QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label of a training Job with the name of its queue."""

PROGRESS_PORT: Final = 9090
RENDEZVOUS_PORT: Final = 29500


def master_address(job: str, namespace: str, attempt: int) -> str:
    """Return the host name of the pod with index 0."""
    return f"{training_job(job, attempt)}-0.{trainer_service(job)}.{namespace}.svc"
