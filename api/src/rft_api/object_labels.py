"""The labels of the objects that the operator makes, by which others find them, too."""

from __future__ import annotations

from typing import Final

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
COMPONENT: Final = "app.kubernetes.io/component"
OWNER: Final = "rft.dev/owner"
"""Label of a child with the name of the resource that it belongs to."""
OPERATOR: Final = "rft-operator"
"""Value of `MANAGED_BY`, and the operator's field manager of server-side apply."""
SERVER_COMPONENT: Final = "server"
"""Value of `COMPONENT` for what belongs to an InferenceEndpoint."""
SERVER_PORT_NAME: Final = "http"
"""Name of the port of an endpoint's Service, and so of its EndpointSlices, at which its servers answer."""
TRAINER: Final = "trainer"
"""Value of `COMPONENT` for what belongs to an RFTJob, and name of the container of a trainer."""
ATTEMPT: Final = "rft.dev/attempt"
"""Label of a training Job and of its pods with the number of the attempt, from 0."""
COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""Kubernetes' label of the pods of an indexed Job with the number of the pod, from 0."""
CREATED_FOR: Final = "rft.dev/created-for"
"""Label of an InferenceEndpoint that the operator has created, with the RFTJob for which it was created first."""
RESULTS_LABEL: Final = "rft.dev/gateway-results"
"""Label of Secrets with which gateways may read the metrics of jobs in their outputs; its value is "true"."""

# What the fine-tuning API knows of a job and an RFTJob has no field for. All of it has this prefix.
FINE_TUNING_PREFIX: Final = "fine-tuning.rft.dev/"
FINE_TUNING_REQUEST: Final = f"{FINE_TUNING_PREFIX}request"
"""Annotation of an RFTJob that the fine-tuning API has made: the request, as JSON, as it was asked."""
FINE_TUNING_DIGESTS: Final = f"{FINE_TUNING_PREFIX}digests"
"""Annotation with the SHA-256 of the files of such a job by their ids, as JSON."""
FINE_TUNING_CANCELLED: Final = f"{FINE_TUNING_PREFIX}cancelled"
"""Annotation with the time at which the fine-tuning API has cancelled an RFTJob, which it also suspends."""
