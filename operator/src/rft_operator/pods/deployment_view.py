"""Read the state of Deployments from the objects of the API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rft_api.model import Json

CONTENT_DIGEST: Final = "rft.dev/content-digest"
"""Annotation of a Deployment with the digest of the configuration that its pods read."""


@dataclass(frozen=True)
class DeploymentView:
    """The state of a Deployment."""

    content_digest: str | None
    """Digest of the configuration that the pods of the newest version read."""
    settled: bool
    """Whether the status is that of the newest spec."""
    replicas: int
    """Number of pods of all versions."""
    updated: int
    """Number of pods of the newest version."""
    available: int
    """Number of ready pods of all versions."""
    desired: int = 1
    """Number of pods that its spec asks for."""
    failure: str | None = None
    """Why Kubernetes cannot create pods, in its words; None when it can."""

    @property
    def rolled_out(self) -> bool:
        """Whether only pods of the newest version are left, and at least one of them is ready."""
        return self.settled and self.updated == self.replicas and self.available > 0


def read_deployment(deployment: Json) -> DeploymentView:
    """Read the state of a Deployment."""
    metadata, status = deployment["metadata"], deployment.get("status", {})
    conditions = status.get("conditions", [])
    refused = [c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"]
    return DeploymentView(
        content_digest=metadata.get("annotations", {}).get(CONTENT_DIGEST),
        settled=status.get("observedGeneration", 0) >= metadata.get("generation", 1),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        desired=deployment["spec"].get("replicas", 1),
        failure=f"{refused[0].get('reason', '')}: {refused[0].get('message', '')}" if refused else None,
    )
