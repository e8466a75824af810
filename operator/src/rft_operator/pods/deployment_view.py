"""Reads Deployments as the API server gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rft_api.model import Json

CONTENT_DIGEST: Final = "rft.dev/content-digest"
"""Annotation of a Deployment: digest of the configuration that its pods read."""


@dataclass(frozen=True)
class DeploymentView:
    """What the operator reads of a Deployment."""

    content_digest: str | None
    """Digest of the configuration that its newest pods read."""
    settled: bool
    """Whether its status speaks of its newest spec."""
    replicas: int
    """Pods of all versions."""
    updated: int
    """Pods of the newest version."""
    available: int
    """Pods of all versions that are ready."""

    @property
    def rolled_out(self) -> bool:
        """Whether only pods of the newest version are left, and one of them is ready."""
        return self.settled and self.updated == self.replicas and self.available > 0


def read_deployment(deployment: Json) -> DeploymentView:
    """The view of a Deployment."""
    metadata, status = deployment["metadata"], deployment.get("status", {})
    return DeploymentView(
        content_digest=metadata.get("annotations", {}).get(CONTENT_DIGEST),
        settled=status.get("observedGeneration", 0) >= metadata.get("generation", 1),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
    )
