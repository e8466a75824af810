"""What all resources have in common: metadata, conditions, pod overrides, secrets and the group's names."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.model import Json, Model
from rft_api.quantities import Integer, Name

GROUP: Final = "rft.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "rft.dev/v1alpha1"

FreeForm = Annotated[Json, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object whose schema belongs to Kubernetes or to the user; passed through unchanged."""

StringMap = dict[str, str]

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A timestamp as Kubernetes writes it, such as 2026-01-31T12:00:00Z."""


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
    """Generation of the spec: the API server increments it with every change of the spec."""
    uid: str | None = None
    """Unique identifier that the API server has assigned."""


class Condition(Model):
    """A condition: one aspect of the state of an object, in the standard form of Kubernetes."""

    type: Annotated[str, Field(max_length=64)]
    """Type of the condition: the aspect that it describes, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Status of the condition. It is True when the condition holds, False when the condition does not hold, and Unknown
    when the operator cannot know yet."""
    reason: Annotated[str, Field(max_length=128)]
    """Reason for the status, as a word in CamelCase. docs/reference/conditions.md lists all reasons."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Explanation of the status for a person, with what to do about it."""
    observed_generation: Integer | None = None
    """Generation of the spec that the condition was computed for."""
    last_transition_time: Timestamp
    """Time at which the status of the condition last changed."""


Conditions = Annotated[
    list[Condition],
    Field(
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class SecretReference(Model):
    """A reference to a Secret in the namespace of the object."""

    secret_name: Name
    """Name of the Secret. Its keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and
    HF_TOKEN, as far as they are needed."""


def _each_has(field: str) -> AfterValidator:
    """Return the check that each object of a list has a text in a field, by which the operator merges lists.

    The schema of such objects is that of Kubernetes, which sees them only as a part of the pod.
    """

    def check(items: list[Json]) -> list[Json]:
        for index, item in enumerate(items):
            if not isinstance(item.get(field), str):
                raise PydanticCustomError("named", "{message}", {"message": f"[{index}].{field} must be a text"})
        return items

    return AfterValidator(check)


def _check_resources(resources: Json) -> Json:
    for kind in ("limits", "requests"):
        amounts = resources.get(kind, {})
        if not isinstance(amounts, dict) or not all(
            isinstance(amount, (str, int, float)) for amount in amounts.values()
        ):
            message = f"{kind} must be names of resources with an amount each, such as memory: 8Gi"
            raise PydanticCustomError("resources", "{message}", {"message": message})
    return resources


class PodOverrides(Model):
    """Settings of a pod. Each field replaces or extends what the operator sets."""

    image: str | None = None
    """Image of the main container. The default is the image that the operator is configured with."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the kubelet pulls the image, as in a pod."""
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = []
    """Names of Secrets with the credentials for the registry of the image."""
    resources: Annotated[FreeForm, AfterValidator(_check_resources)] | None = None
    """Resource requests and limits of the main container, as in a pod."""
    node_selector: StringMap = {}
    """Labels that a node must have to run the pod."""
    tolerations: Annotated[list[FreeForm], Field(max_length=32)] = []
    """Tolerations, as in a pod."""
    affinity: FreeForm | None = None
    """Affinity, as in a pod."""
    priority_class_name: str | None = None
    """Name of the PriorityClass of the pod."""
    runtime_class_name: str | None = None
    """Name of the RuntimeClass of the pod, such as that of gVisor or of Kata Containers."""
    service_account_name: Name | None = None
    """Name of the ServiceAccount of the pod, for clouds that bind credentials to it. Its token is not mounted."""
    labels: StringMap = {}
    """Labels that are added to the pod."""
    annotations: StringMap = {}
    """Annotations that are added to the pod."""
    env: Annotated[list[FreeForm], Field(max_length=64), _each_has("name")] = []
    """Environment variables that are added to the main container, as in a pod."""
    volumes: Annotated[list[FreeForm], Field(max_length=32), _each_has("name")] = []
    """Volumes that are added to the pod, as in a pod."""
    volume_mounts: Annotated[list[FreeForm], Field(max_length=32), _each_has("mountPath")] = []
    """Volume mounts that are added to the main container, as in a pod."""
