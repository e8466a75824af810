"""The metadata of child objects: owner reference, labels and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rft_api.model import Json
from rft_api.resource import API_VERSION, Metadata
from rft_operator.kube.kinds import KINDS, Kind


class Manifest(Protocol):
    """The manifest of one of the project's resources."""

    @property
    def kind(self) -> str:
        """Name of the kind."""

    @property
    def metadata(self) -> Metadata:
        """Metadata of the object, with its name, namespace and uid."""


@dataclass(frozen=True)
class Owner:
    """The owner of child objects: Kubernetes deletes them when it is deleted."""

    kind: str
    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, resource: Manifest) -> Owner:
        """Return a resource as an owner.

        Raises:
            ValueError: when the resource has no uid, because it was not read from the API server.
        """
        metadata = resource.metadata
        if metadata.uid is None:
            raise ValueError(f"{resource.kind} {metadata.name} has no uid: it was not read from the API server")
        return cls(resource.kind, metadata.name, metadata.namespace, metadata.uid)

    def reference(self, controller: bool = True) -> Json:
        """Return the owner reference; `controller` marks the one owner that manages the child."""
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
    """Build a child object.

    Args:
        kind: its kind.
        owner: its owner, whose namespace it is in.
        name: its name.
        body: everything but kind, API version and metadata.
        labels: labels beside those that every child of the owner has.
        annotations: its annotations.
    """
    metadata: Json = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {**KINDS[owner.kind].child_labels(owner.name), **(labels or {})},
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, **body}
