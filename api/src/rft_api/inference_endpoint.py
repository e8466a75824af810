"""The InferenceEndpoint resource: serving a base model, or an adapter beside its base."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from rft_api.conversation_logs import EndpointLogs
from rft_api.model import Location, Model, Rule, Violation
from rft_api.object_names import names_service, server
from rft_api.price import Price
from rft_api.quantities import AtLeast, Duration, Integer, Name, exactly_one_of
from rft_api.resource import API_VERSION, Conditions, Metadata, PodOverrides, SecretReference, Timestamp
from rft_api.rft_job import ModelSource
from rft_api.sources import Uri
from rft_api.training import Precision


class Adapter(Model):
    """A LoRA adapter."""

    uri: Uri
    """Address of a folder with adapter_config.json and safetensors: s3://BUCKET/PREFIX or pvc://CLAIM/PATH."""


ADAPTER_ADDRESS: Final[Location] = ("spec", "adapter", "uri")
"""Field of the address of an adapter."""
MAXIMUM_ADAPTER_SOURCES = 256
"""Largest number of places that adapters of one endpoint may come from."""
AdapterSource = Annotated[
    str, Field(max_length=1024, pattern=r"^(s3://[^/\s]+(/\S*)?|pvc://[a-z0-9][-a-z0-9.]*(/.*)?)$")
]
"""A place of adapters: s3://BUCKET, s3://BUCKET/PREFIX, pvc://CLAIM or pvc://CLAIM/PATH, with everything below it."""


MediaDomain = Annotated[
    str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$")
]
"""The name of a host that media come from, as it is in their URLs, such as images.example.com."""


class Serving(Model):
    """Settings of the server of an endpoint."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.gpus == 0 || self.precision == 'Auto'",
            message="precision is for serving on CPUs (gpus: 0); on GPUs the model is computed as its files have it",
            holds=lambda serving: serving.gpus == 0 or serving.precision == "Auto",
        ),
    )

    gpus: Annotated[Integer, Field(ge=0, le=64)] = 1
    """Number of GPUs of each replica. With 0 the model is served on CPUs."""
    gpu_resource: Annotated[str, Field(max_length=253)] = "nvidia.com/gpu"
    """Name of the extended resource that the pods request for their GPUs."""
    max_model_length: Annotated[Integer, Field(ge=1, le=16777216)] | None = None
    """Largest number of tokens in a conversation. The default is the limit of the model."""
    max_adapters: Annotated[Integer, Field(ge=0, le=1024)] = 8
    """Number of adapters that can be used at the same time. With 0 only the model itself is served."""
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Largest rank that an adapter may have."""
    adapter_sources: Annotated[list[AdapterSource], Field(max_length=MAXIMUM_ADAPTER_SOURCES)] = []
    """Places that adapters may come from: s3://BUCKET/PREFIX or pvc://CLAIM/PATH, each with everything below it. An
    adapter from another place is refused, because the pods of this endpoint fetch adapters with its credentials, and
    mount its claims."""
    media_domains: Annotated[list[MediaDomain], Field(max_length=256)] = []
    """Names of hosts from which the server may fetch images, audio and video, when requests refer to them by http or
    https URLs. By default there is no such host, and requests must contain media as data: URLs. Otherwise clients could
    have the server read every address that its pod can reach."""
    precision: Precision = "Auto"
    """Precision in which CPUs compute the model. Auto uses the precision of the model's files where the processor has
    instructions for bfloat16, and Float32 elsewhere, because emulating bfloat16 is several times slower."""
    pod: PodOverrides | None = None
    """Settings of the server's pods that replace or extend the operator's."""

    def admits_adapter(self, uri: str) -> bool:
        """Return whether adapters may come from this address: whether it is one of adapterSources, or below one."""
        return any(f"{uri.rstrip('/')}/".startswith(f"{source.rstrip('/')}/") for source in self.adapter_sources)


def describe_foreign_source(uri: str, base: str) -> str:
    """Return the sentence for an adapter whose address its base endpoint does not admit."""
    return (
        f"InferenceEndpoint {base} does not serve adapters from {uri}; add this address, or a folder above it, to its "
        "spec.serving.adapterSources"
    )


class Autoscale(Model):
    """How the number of server pods follows the number of requests that the gateways have for the endpoint."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minimum <= self.maximum",
            message="minimum must not be larger than maximum",
            holds=lambda autoscale: autoscale.minimum <= autoscale.maximum,
        ),
    )

    minimum: Annotated[Integer, Field(ge=0, le=1000)] = 0
    """Smallest number of server pods. With 0, the endpoint has no pod while there are no requests for its models."""
    maximum: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Largest number of server pods."""
    target_concurrency: Annotated[Integer, Field(ge=1, le=65536)] = 32
    """Number of simultaneous requests that one server pod can handle. The operator divides the number of requests by it
    to choose the number of pods."""
    idle_after: Annotated[Duration, AtLeast("10s")] = "10m"
    """Time after which server pods that are not needed end. A pod is not needed when fewer pods have been enough for
    the requests during all of this time. The last pod is not needed when there has been no request during this time; it
    ends only with minimum: 0."""


class ColdStart(Model):
    """How requests wait at a gateway for an endpoint that has no server pod yet."""

    timeout: Annotated[Duration, AtLeast("1s")] = "10m"
    """Longest time that a request waits. After this time it is answered with 503, and the answer says why the model has
    not started."""
    queue: Annotated[Integer, Field(ge=0, le=65536)] = 256
    """Number of requests that may wait at each gateway. Further requests are answered with 429. With 0 no request
    waits: a request wakes the endpoint, and is answered with 503."""


class InferenceEndpointSpec(Model):
    """The desired state of an endpoint: what is served, and how."""

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
        Rule(
            cel="!has(self.baseEndpoint) || !has(self.autoscale)",
            message="autoscale belongs to the endpoint that baseEndpoint names; remove it here",
            holds=lambda spec: spec.base_endpoint is None or spec.autoscale is None,
        ),
        Rule(
            cel="!has(self.coldStart) || has(self.autoscale)",
            message="coldStart is for endpoints with autoscale; remove it, or set autoscale",
            holds=lambda spec: spec.cold_start is None or spec.autoscale is not None,
        ),
    )

    model: ModelSource | None = None
    """The model to serve, with a server of its own."""
    base_endpoint: Name | None = None
    """Name of the InferenceEndpoint whose server also serves the adapter."""
    adapter: Adapter | None = None
    """The adapter that the server of baseEndpoint serves."""
    replicas: Annotated[Integer, Field(ge=0, le=1000)] = 1
    """Number of server pods. `kubectl scale` and autoscalers change this number. With autoscale it has no effect."""
    autoscale: Autoscale | None = None
    """Automatic scaling. The operator chooses the number of server pods from the number of requests that the gateways
    have for the endpoint. Without this field, the number of pods is replicas."""
    cold_start: ColdStart | None = None
    """How requests wait while the endpoint has no server pod. It needs autoscale."""
    serving: Serving | None = None
    """Settings of the server. By default it has one GPU and serves up to eight adapters at the same time."""
    price: Price | None = None
    """Price of the tokens of this model. The ledger of the gateway records the price with every request. The default of
    an adapter is the price of the endpoint that baseEndpoint names. Without a price, tokens are counted and cost
    nothing."""
    credentials: SecretReference | None = None
    """Secret with the credentials for s3:// and hf:// addresses."""
    logs: EndpointLogs | None = None
    """Where gateways keep the conversations with the model, in the format of Amazon Bedrock's invocation logs, so that
    the next model can be trained on them. Without this field, no conversation is kept."""


class AutoscaleStatus(Model):
    """How many server pods an endpoint with autoscale has, and what the operator remembers for this number.

    Times are written again when they are a tenth of idleAfter old, so they are up to a tenth of it too early.
    """

    replicas: Integer
    """Number of server pods that the operator has chosen."""
    last_request_time: Timestamp | None = None
    """Time of the last request. The operator writes it only now and then, so it can be too early by a tenth of
    idleAfter."""
    last_needed_time: Timestamp | None = None
    """Time at which all pods were last needed; absent when there is at most one pod."""
    sufficient_replicas: Integer | None = None
    """Number of pods that has been enough for the requests since lastNeededTime."""


class InferenceEndpointStatus(Model):
    """The observed state of an endpoint; the operator writes it."""

    conditions: Conditions = []
    """Conditions of the endpoint. Each describes one aspect of its state."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Base URL of the OpenAI-compatible API: that of the gateway, if clients cannot ask the servers themselves."""
    model_name: Annotated[str, Field(max_length=253)] | None = None
    """Name of the model in the API."""
    replicas: Integer | None = None
    """Number of server pods that are ready."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the server pods; autoscalers use it."""
    autoscale: AutoscaleStatus | None = None
    """How many server pods an endpoint with autoscale has."""


class InferenceEndpoint(Model):
    """An InferenceEndpoint serves a model, or an adapter beside its base model, under one name."""

    rules: ClassVar[tuple[Rule, ...]] = (names_service(server),)

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Version of the API: rft.dev/v1alpha1."""
    kind: Literal["InferenceEndpoint"] = "InferenceEndpoint"
    """Kind of the resource: InferenceEndpoint."""
    metadata: Metadata
    """Standard object metadata."""
    spec: InferenceEndpointSpec
    """The desired state of the endpoint."""
    status: InferenceEndpointStatus | None = None
    """The observed state of the endpoint."""


def serving_of(endpoint: InferenceEndpoint) -> Serving:
    """Return the settings of an endpoint's server, or the defaults."""
    return endpoint.spec.serving or Serving()


def find_adapter_violation(adapter: InferenceEndpoint, base: InferenceEndpoint) -> Violation | None:
    """Return why the server of one endpoint cannot serve the adapter of another one; None when it can.

    Whether the server can open the address of the adapter is another question. A path has no source, because only a
    server on the same machine can open it.
    """
    spec, name = adapter.spec, base.metadata.name
    assert spec.adapter is not None  # an endpoint with a base has an adapter
    if base.spec.model is None:
        text = f"{name} is itself an adapter; name the endpoint of the base model"
        return Violation(text, ("spec", "baseEndpoint"))
    if not serving_of(base).max_adapters:
        return Violation(f"{name} has serving.maxAdapters: 0; raise it", ("spec", "baseEndpoint"))
    if spec.credentials is not None and spec.credentials != base.spec.credentials:
        text = f"the adapter is fetched with the credentials of {name}; leave it out, or set the same"
        return Violation(text, ("spec", "credentials"))
    if "://" in spec.adapter.uri and not serving_of(base).admits_adapter(spec.adapter.uri):
        return Violation(describe_foreign_source(spec.adapter.uri, name), ADAPTER_ADDRESS)
    return None
