"""Names, label keys and ports of the children of an RFTJob."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

TRAINER: Final = "trainer"
"""Name of the container of a trainer."""
ATTEMPT: Final = "rft.dev/attempt"
"""Label of a training Job and of its pods with the number of the attempt, from 0."""
RETRIES_BEFORE: Final = "rft.dev/retries-before"
"""Annotation of a training Job with the number of failures before it that count against the limit of retries."""
CREATED_FOR: Final = "rft.dev/created-for"
"""Label of an InferenceEndpoint that the operator has created, with the RFTJob for which it was created first."""
QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label of a training Job with the name of its queue."""

PROGRESS_PORT: Final = 9090
RENDEZVOUS_PORT: Final = 29500

_LONGEST_JOB_NAME = 63 - len("-1023")
"""Largest length of a Job's name: the host name of a pod appends the index of the pod to it."""


def run_configuration(job: str) -> str:
    """Return the name of the ConfigMap with the configuration of a run."""
    return bounded(job, "run")


def trainer_service(job: str) -> str:
    """Return the name of the headless Service that gives the pods of a trainer their host names."""
    return bounded(job, "trainer")


def training_job(job: str, attempt: int) -> str:
    """Return the name of the Job of an attempt."""
    return bounded(job, f"trainer-{attempt}", _LONGEST_JOB_NAME)


def master_address(job: str, namespace: str, attempt: int) -> str:
    """Return the host name of the pod with index 0."""
    return f"{training_job(job, attempt)}-0.{trainer_service(job)}.{namespace}.svc"


def base_endpoint(endpoint: str) -> str:
    """Return the name of the base endpoint of an adapter endpoint whose job names none."""
    return bounded(endpoint, "base")
