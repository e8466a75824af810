"""The InferenceEndpoint resource: serving a base model, or an adapter beside its base."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.model import Model, Rule
from rft_api.quantities import Integer, Name, exactly_one_of
from rft_api.resource import API_VERSION, Conditions, Metadata, PodOverrides, SecretReference
from rft_api.rft_job import ModelSource
from rft_api.sources import Uri


class Adapter(Model):
    """LoRA weights."""

    uri: Uri
    """s3://BUCKET/PREFIX or pvc://CLAIM/PATH of a folder with adapter_config.json and safetensors."""


class Serving(Model):
    """The server of an endpoint that has one of its own."""

    gpus: Annotated[Integer, Field(ge=0, le=64)] = 1
    """GPUs of each replica; 0 serves on CPUs."""
    gpu_resource: Annotated[str, Field(max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource that GPUs are requested as."""
    max_model_length: Annotated[Integer, Field(ge=1, le=16777216)] | None = None
    """Most tokens of a conversation; the model's own limit when absent."""
    max_adapters: Annotated[Integer, Field(ge=0, le=1024)] = 8
    """Adapters that can be used at the same time; 0 serves the model alone."""
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Highest rank of an adapter."""
    pod: PodOverrides | None = None
    """Changes to the server's pods."""


class InferenceEndpointSpec(Model):
    """What is served, and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one_of("model", "base_endpoint"),
        Rule(
            cel="has(self.baseEndpoint) == has(self.adapter)",
            message="baseEndpoint and adapter go together: the adapter is served by that endpoint's server",
            holds=lambda spec: (spec.base_endpoint is None) == (spec.adapter is None),
        ),
        Rule(
            cel="!has(self.baseEndpoint) || !has(self.serving)",
            message="serving belongs to the endpoint that baseEndpoint names; remove it here",
            holds=lambda spec: spec.base_endpoint is None or spec.serving is None,
        ),
    )

    model: ModelSource | None = None
    """A model with a server of its own."""
    base_endpoint: Name | None = None
    """InferenceEndpoint whose server also serves this adapter."""
    adapter: Adapter | None = None
    """The adapter to serve on baseEndpoint."""
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = 1
    """Server pods; `kubectl scale` and autoscalers move this number."""
    serving: Serving | None = None
    """The server's settings; one GPU and up to eight adapters when absent."""
    credentials: SecretReference | None = None
    """Secret with the credentials for s3:// and hf:// addresses."""


class InferenceEndpointStatus(Model):
    """What the operator observed."""

    conditions: Conditions = []
    """The state, one condition per aspect."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Base URL of the OpenAI-compatible API."""
    model_name: Annotated[str, Field(max_length=253)] | None = None
    """The model's name in the API."""
    replicas: Integer | None = None
    """Server pods that are ready."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the server pods, for autoscalers."""


class InferenceEndpoint(Model):
    """One served model name."""

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Always rft.dev/v1alpha1."""
    kind: Literal["InferenceEndpoint"] = "InferenceEndpoint"
    """Always InferenceEndpoint."""
    metadata: Metadata
    """Standard object metadata."""
    spec: InferenceEndpointSpec
    """What is wanted."""
    status: InferenceEndpointStatus | None = None
    """What is."""
