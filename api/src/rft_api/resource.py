"""What all resources have in common: metadata, conditions, pod overrides, secrets and the group's names."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from rft_api.model import Model
from rft_api.quantities import Integer, Name

GROUP: Final = "rft.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "rft.dev/v1alpha1"

FreeForm = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object whose schema belongs to Kubernetes or to the user; passed through unchanged."""

StringMap = dict[str, str]

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A moment as Kubernetes writes it, such as 2026-01-31T12:00:00Z."""


class Metadata(Model):
    """The part of Kubernetes' object metadata that a manifest sets and the project reads."""

    model_config = {"extra": "ignore"}

    name: Name
    """Name of the object."""
    namespace: Name = "default"
    """Namespace of the object."""
    labels: StringMap = {}
    """Labels of the object."""
    annotations: StringMap = {}
    """Annotations of the object."""
    generation: int | None = None
    """Number of the spec's version, counted by the API server."""
    uid: str | None = None
    """Unique id, given by the API server."""


class Condition(Model):
    """One aspect of an object's state, in Kubernetes' standard form."""

    type: Annotated[str, Field(max_length=64)]
    """What the condition is about, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, as one CamelCase word; docs/reference/conditions.md lists them."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, for a person, with what to do about it."""
    observed_generation: Integer | None = None
    """The generation of the spec that the condition speaks of."""
    last_transition_time: Timestamp
    """When the status last changed."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class SecretReference(Model):
    """A Secret in the object's namespace."""

    secret_name: Name
    """Name of the Secret: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, HF_TOKEN."""


class PodOverrides(Model):
    """What a pod of ours may have changed: each field replaces or extends what the operator would set."""

    image: str | None = None
    """Image in place of the operator's default."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = []
    """Names of Secrets with registry credentials."""
    resources: FreeForm | None = None
    """Requests and limits of the main container, as in a pod."""
    node_selector: StringMap = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[FreeForm], Field(max_length=32)] = []
    """Tolerations, as in a pod."""
    affinity: FreeForm | None = None
    """Affinity, as in a pod."""
    priority_class_name: str | None = None
    """PriorityClass of the pod."""
    runtime_class_name: str | None = None
    """RuntimeClass of the pod, such as gVisor's or Kata's."""
    service_account_name: Name | None = None
    """ServiceAccount of the pod, for clouds that tie credentials to it; its token is not mounted."""
    labels: StringMap = {}
    """Labels added to the pod."""
    annotations: StringMap = {}
    """Annotations added to the pod."""
    env: Annotated[list[FreeForm], Field(max_length=64)] = []
    """Environment variables added to the main container, as in a pod."""
    volumes: Annotated[list[FreeForm], Field(max_length=32)] = []
    """Volumes added to the pod, as in a pod."""
    volume_mounts: Annotated[list[FreeForm], Field(max_length=32)] = []
    """Mounts added to the main container, as in a pod."""
