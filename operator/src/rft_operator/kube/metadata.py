"""Builds the metadata of children: owner, labels, name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.resource import API_VERSION
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob

Json = dict[str, Any]
Resource = RFTJob | RewardFunction | InferenceEndpoint


@dataclass(frozen=True)
class Owner:
    """An object that children hang on: when it is deleted, Kubernetes deletes them."""

    kind: str
    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, resource: Resource) -> Owner:
        """The owner reference's content for a resource that the API server has stored."""
        metadata = resource.metadata
        if metadata.uid is None:
            raise ValueError(f"{resource.kind} {metadata.name} has no uid: it was not read from the API server")
        return cls(resource.kind, metadata.name, metadata.namespace, metadata.uid)

    def reference(self, controller: bool = True) -> Json:
        """The owner reference; `controller` is true for the one owner that manages the child."""
        reference: Json = {"apiVersion": API_VERSION, "kind": self.kind, "name": self.name, "uid": self.uid}
        return {**reference, "controller": True, "blockOwnerDeletion": True} if controller else reference


def build_object(
    api_version: str,
    kind: str,
    owner: Owner,
    name: str,
    labels: dict[str, str],
    body: Json,
    annotations: dict[str, str] | None = None,
) -> Json:
    """A child of `owner`."""
    metadata: Json = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels,
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}
