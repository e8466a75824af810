"""Names, label keys and ports of what belongs to an RFTJob."""

from __future__ import annotations

from typing import Final

from rft_operator.kube.names import bounded

TRAINER: Final = "trainer"
"""Name of the trainer's container."""
ATTEMPT: Final = "rft.dev/attempt"
"""Label of a training Job and of its pods: which start of the run this is, from 0."""
RETRIES_BEFORE: Final = "rft.dev/retries-before"
"""Annotation of a training Job: counted failures before this attempt."""
CREATED_FOR: Final = "rft.dev/created-for"
"""Label of an InferenceEndpoint that the operator made: the RFTJob that asked for it first."""
QUEUE: Final = "kueue.x-k8s.io/queue-name"

PROGRESS_PORT: Final = 9090
RENDEZVOUS_PORT: Final = 29500

_LONGEST_POD_NAME = 63 - len("-1023")
"""Room for a pod's index: its host name is made of the Job's name and of it."""


def run_configuration(job: str) -> str:
    """ConfigMap with a run's job.json."""
    return bounded(job, "run")


def trainer_service(job: str) -> str:
    """Headless Service through which trainer pods find each other."""
    return bounded(job, "trainer")


def training_job(job: str, attempt: int) -> str:
    """The batch/v1 Job of one attempt."""
    return bounded(job, f"trainer-{attempt}", _LONGEST_POD_NAME)


def master_address(job: str, namespace: str, attempt: int) -> str:
    """Host name of the pod with index 0."""
    return f"{training_job(job, attempt)}-0.{trainer_service(job)}.{namespace}.svc"


def base_endpoint(endpoint: str) -> str:
    """InferenceEndpoint made for the base model of a job's adapter when the job names none."""
    return bounded(endpoint, "base")
