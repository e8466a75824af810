"""Builds the metadata of children: owner, labels, name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rft_api.model import Json
from rft_api.resource import API_VERSION, Metadata
from rft_operator.kube.kinds import KINDS, Kind


class Manifest(Protocol):
    """A resource of the project."""

    @property
    def kind(self) -> str:
        """As its manifest says."""

    @property
    def metadata(self) -> Metadata:
        """Name, namespace and uid among others."""


@dataclass(frozen=True)
class Owner:
    """An object that children hang on: when it is deleted, Kubernetes deletes them."""

    kind: str
    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, resource: Manifest) -> Owner:
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
    kind: Kind,
    owner: Owner,
    name: str,
    body: Json,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """A child of `owner`, with the labels of one, and these."""
    metadata: Json = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**KINDS[owner.kind].child_labels(owner.name), **(labels or {})},
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **body}
