"""Every name, label key, port and path that the operator gives, in one place."""

from __future__ import annotations

import hashlib
from typing import Final

FIELD_MANAGER: Final = "rft-operator"
LEASE: Final = "rft-operator"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
OWNER: Final = "rft.dev/owner"
"""Label of a child: the name of the object that it belongs to."""
ATTEMPT: Final = "rft.dev/attempt"
"""Label of a training Job and of its pods: which start of the run this is, from 0."""
RETRIES_BEFORE: Final = "rft.dev/retries-before"
"""Annotation of a training Job: counted failures before this attempt."""
CONTENT_DIGEST: Final = "rft.dev/content-digest"
"""Annotation of a Deployment: digest of the configuration that its pods read."""
CREATED_FOR: Final = "rft.dev/created-for"
"""Label of an InferenceEndpoint that the operator made: the RFTJob that asked for it first."""
QUEUE: Final = "kueue.x-k8s.io/queue-name"
COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"

TRAINER: Final = "trainer"
REWARD: Final = "reward-server"
SERVER: Final = "server"

PROGRESS_PORT: Final = 9090
RENDEZVOUS_PORT: Final = 29500
REWARD_PORT: Final = 8080
SERVER_PORT: Final = 8000
LOADER_PORT: Final = 8081

MOUNTS: Final = "/mnt/rft"
"""Folder below which user's volumes are mounted."""
SCRATCH: Final = "/scratch"
"""Writable folder that goes with the pod; holds HOME and TMPDIR."""
CONFIGURATION: Final = "/etc/rft"
"""Folder of the configuration that the operator wrote."""
TOKENS: Final = "/var/run/rft/rewards"
"""Folder of the reward servers' tokens, one folder a reward function."""
MODELS: Final = "/models"
"""Folder that the loader and the server share."""

_DNS_LABEL = 63


def bounded(name: str, suffix: str, limit: int = _DNS_LABEL) -> str:
    """`NAME-SUFFIX`, with the name's end replaced by a digest of it where the whole would be too long."""
    whole = f"{name}-{suffix}"
    if len(whole) <= limit:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    end = f"-{digest}-{suffix}"
    return name[: limit - len(end)].rstrip("-") + end


def run_configuration(job: str) -> str:
    """ConfigMap with a run's job.json."""
    return bounded(job, "run")


def trainer_service(job: str) -> str:
    """Headless Service through which trainer pods find each other."""
    return bounded(job, "trainer")


def training_job(job: str, attempt: int) -> str:
    """The batch/v1 Job of one attempt; leaves room for a pod's index, because its host name is made of both."""
    return bounded(job, f"trainer-{attempt}", _DNS_LABEL - len("-1023"))


def master_address(job: str, namespace: str, attempt: int) -> str:
    """Host name of the pod with index 0."""
    return f"{training_job(job, attempt)}-0.{trainer_service(job)}.{namespace}.svc"


def reward_server(function: str) -> str:
    """Deployment, Service and NetworkPolicy of a reward function."""
    return bounded(function, "reward")


def reward_configuration(function: str, digest: str) -> str:
    """ConfigMap with a reward function's code; another for other code."""
    return bounded(function, f"reward-{digest[:10]}")


def reward_token(function: str, uid: str) -> str:
    """Secret with a reward server's token; another for a function made anew under the same name."""
    return bounded(function, f"reward-token-{uid[:8]}")


def reward_url(function: str, namespace: str) -> str:
    """Base URL of a reward function's server."""
    return f"http://{reward_server(function)}.{namespace}.svc:{REWARD_PORT}"


def server(endpoint: str) -> str:
    """Deployment of an endpoint's server, and the Service of every endpoint."""
    return bounded(endpoint, "server")


def adapter_list(endpoint: str) -> str:
    """ConfigMap with the adapters that a server serves beside its base model."""
    return bounded(endpoint, "adapters")


def endpoint_url(endpoint: str, namespace: str) -> str:
    """Base URL of an endpoint's OpenAI-compatible API."""
    return f"http://{server(endpoint)}.{namespace}.svc:{SERVER_PORT}/v1"


def default_base_endpoint(endpoint: str) -> str:
    """InferenceEndpoint made for the base model of a job's adapter when the job names none."""
    return bounded(endpoint, "base")
