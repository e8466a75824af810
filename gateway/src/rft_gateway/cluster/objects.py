"""What the gateway takes of objects of the cluster: routes of InferenceEndpoints and EndpointSlices, keys of Secrets.

The objects are foreign. Only the fields that are needed are looked at, so that a gateway goes on while definitions are
newer than itself.
"""

from __future__ import annotations

import base64
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from rft_api.conditions import ConditionType
from rft_api.conversation_logs import CREDENTIALS_LABEL, EndpointLogs
from rft_api.foreign.sizes import format_size
from rft_api.foreign.text import one_line
from rft_api.gateway_key import KEY_LABEL, Key, merge_keys, parse_secret
from rft_api.gateway_routes import Route
from rft_api.inference_endpoint import ColdStart
from rft_api.model import Json, Model
from rft_api.object_labels import (
    COMPONENT,
    MANAGED_BY,
    OPERATOR,
    RESULTS_LABEL,
    SERVER_COMPONENT,
    SERVER_PORT_NAME,
)
from rft_api.object_names import server
from rft_api.price import Price
from rft_api.quantities import Name, duration_seconds
from rft_api.resource import API_VERSION, Metadata
from rft_api.violations import violations
from rft_gateway.cluster.api_server import Resource
from rft_gateway.routes import EndpointState, ModelName

ENDPOINTS = Resource("InferenceEndpoint", API_VERSION, "inferenceendpoints")
SLICES = Resource(
    "EndpointSlice", "discovery.k8s.io/v1", "endpointslices",
    f"{MANAGED_BY}={OPERATOR},{COMPONENT}={SERVER_COMPONENT}",  # a slice has the labels of its Service
)  # fmt: skip
KEYS = Resource("Secret", "v1", "secrets", f"{KEY_LABEL}=true")
LOG_CREDENTIALS = Resource("Secret", "v1", "secrets", f"{CREDENTIALS_LABEL}=true")
RESULT_CREDENTIALS = Resource("Secret", "v1", "secrets", f"{RESULTS_LABEL}=true")
_NEEDED = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_VARIABLES = (*_NEEDED, "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
_LONGEST_VARIABLE = 16 << 10
"""Bytes of a credential: a session token of AWS has about one thousand."""
_SERVICE_LABEL = "kubernetes.io/service-name"

_OBJECT_BYTES, _TEXT_BYTES = 1024, 64
"""What an object and a text take in Python beside the characters."""

_M = TypeVar("_M", bound=Model)


class _Partial(Model):
    """A part of an object, whose other fields are ignored."""

    model_config = {"extra": "ignore"}


class _ColdStart(ColdStart):
    model_config = {"extra": "ignore"}


class _Logs(EndpointLogs):
    model_config = {"extra": "ignore"}


class _Spec(_Partial):
    base_endpoint: Name | None = None
    autoscale: dict[str, Any] | None = None
    cold_start: _ColdStart = _ColdStart()
    price: Price | None = None
    logs: _Logs | None = None


class _Condition(_Partial):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int | None = None


class _Status(_Partial):
    conditions: Annotated[list[_Condition], Field(max_length=32)] = []


class _InferenceEndpoint(_Partial):
    metadata: Metadata
    spec: _Spec
    status: _Status | None = None


class _Port(_Partial):
    name: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class _PodConditions(_Partial):
    ready: bool | None = None
    terminating: bool | None = None


class _Pod(_Partial):
    addresses: Annotated[list[str], Field(min_length=1, max_length=100)]
    conditions: _PodConditions = _PodConditions()


class _EndpointSlice(_Partial):
    metadata: Metadata
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    ports: Annotated[list[_Port], Field(max_length=100)] | None = None
    endpoints: Annotated[list[_Pod], Field(max_length=1000)] | None = None


@dataclass(frozen=True)
class Endpoint:
    """What the gateway takes of an InferenceEndpoint."""

    namespace: str
    name: str
    base: str
    """The endpoint with the server: its own name, or that of an adapter's base."""
    can_wake: bool
    queue: int
    timeout: float
    """Seconds."""
    price: Price | None
    logs: EndpointLogs | None
    is_ready: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Servers:
    """What the gateway takes of an EndpointSlice."""

    namespace: str
    service: str
    """Name of the Service."""
    is_ipv6: bool
    urls: tuple[str, ...]
    """Addresses of the pods that take requests."""
    pods: int
    """Number of all pods, also of those that are not ready."""


@dataclass(frozen=True)
class DatedKey:
    """A key, and when its Secret was created. Only the API server sets this time."""

    created: str
    key: Key


def read_endpoint(item: Json) -> Endpoint:
    """Return what the gateway takes of an InferenceEndpoint.

    Raises:
        ValueError: when a field that it needs is wrong.
    """
    endpoint = _validate(_InferenceEndpoint, item)
    metadata, spec = endpoint.metadata, endpoint.spec
    conditions = endpoint.status.conditions if endpoint.status is not None else []
    condition = next((each for each in conditions if each.type == ConditionType.READY), None)
    if condition is not None and condition.observed_generation not in (None, metadata.generation):
        condition = None  # it tells of a spec that has been changed since
    is_ready = condition is not None and condition.status == "True"
    return Endpoint(
        namespace=metadata.namespace,
        name=metadata.name,
        base=spec.base_endpoint or metadata.name,
        can_wake=spec.autoscale is not None,
        queue=spec.cold_start.queue,
        timeout=duration_seconds(spec.cold_start.timeout),
        price=spec.price,
        logs=spec.logs,
        is_ready=is_ready,
        reason=one_line(condition.reason) if condition is not None and not is_ready else "",
        message=one_line(condition.message) if condition is not None and not is_ready else "",
    )


def read_slice(item: Json) -> Servers:
    """Return what the gateway takes of an EndpointSlice.

    Raises:
        ValueError: when a field that it needs is wrong.
    """
    part = _validate(_EndpointSlice, item)
    labels, is_ipv6 = part.metadata.labels, part.address_type == "IPv6"
    if not (service := labels.get(_SERVICE_LABEL)):
        raise ValueError(f"metadata.labels: {_SERVICE_LABEL} is required")
    port = next((port.port for port in part.ports or [] if port.name == SERVER_PORT_NAME), None)
    pods = (
        [] if part.address_type == "FQDN" else [pod for pod in part.endpoints or [] if not pod.conditions.terminating]
    )
    # Without a statement a pod counts as ready, says Kubernetes. It has one address of each family.
    addresses = [ipaddress.ip_address(pod.addresses[0]) for pod in pods if pod.conditions.ready is not False]
    urls = [f"http://[{address}]:{port}" if is_ipv6 else f"http://{address}:{port}" for address in addresses]
    return Servers(part.metadata.namespace, service, is_ipv6, tuple(urls) if port else (), len(pods))


def read_key(item: Json) -> DatedKey:
    """Return the key that a Secret holds.

    Raises:
        ValueError: when it holds none.
    """
    return DatedKey(str(item["metadata"].get("creationTimestamp")), parse_secret(item))


def read_credentials(item: Json) -> dict[str, str]:
    """Return the credentials for S3 that a Secret holds.

    Raises:
        ValueError: when it has none. The message has no value.
    """
    data = item.get("data") or {}
    variables: dict[str, str] = {}
    for name in _VARIABLES:
        encoded = data.get(name) or ""
        if len(encoded) > _LONGEST_VARIABLE:
            raise ValueError(f"data.{name}: is longer than {format_size(_LONGEST_VARIABLE)}, and no credential is")
        try:
            value = base64.b64decode(encoded, validate=True).decode().strip()
        except ValueError:
            raise ValueError(f"data.{name}: is not text in base64") from None
        if value:
            variables[name] = value
        elif name in _NEEDED:
            raise ValueError(f"data.{name}: is required in credentials for S3")
    return variables


def endpoint_bytes(endpoint: Endpoint) -> int:
    """Return about how many bytes an endpoint takes."""
    rules = endpoint.logs.redact.patterns if endpoint.logs is not None and endpoint.logs.redact is not None else []
    patterns = sum(_OBJECT_BYTES + len(rule.pattern) + len(rule.replacement) for rule in rules)
    return 2 * _OBJECT_BYTES + len(endpoint.reason) + len(endpoint.message) + patterns


def slice_bytes(servers: Servers) -> int:
    """Return about how many bytes the servers of a slice take."""
    return _OBJECT_BYTES + sum(_TEXT_BYTES + len(url) for url in servers.urls)


def key_bytes(dated: DatedKey) -> int:
    """Return about how many bytes a key takes."""
    return _OBJECT_BYTES + sum(_TEXT_BYTES + len(model) for model in dated.key.models)


def credentials_bytes(variables: Mapping[str, str]) -> int:
    """Return about how many bytes credentials take."""
    return _OBJECT_BYTES + sum(_TEXT_BYTES + len(value) for value in variables.values())


def make_routes(
    endpoints: Iterable[Endpoint], slices: Iterable[Servers]
) -> tuple[list[Route], dict[ModelName, EndpointState]]:
    """Return the models of endpoints with their servers, and the state of each."""
    of_service: dict[tuple[str, str], list[Servers]] = defaultdict(list)
    for part in slices:
        of_service[part.namespace, part.service].append(part)
    named = {(endpoint.namespace, endpoint.name): endpoint for endpoint in endpoints}
    routes: list[Route] = []
    states: dict[ModelName, EndpointState] = {}
    for name, endpoint in named.items():
        parts = of_service.get((endpoint.namespace, server(endpoint.base)), [])
        # Where Services have addresses of both families, a pod has one of each.
        family = [part for part in parts if not part.is_ipv6] or parts
        urls = sorted({url for part in family for url in part.urls})
        base = named.get((endpoint.namespace, endpoint.base))
        # The parts have been validated, and there may be thousands.
        route: dict[str, Any] = {"namespace": endpoint.namespace, "model": endpoint.name, "base": endpoint.base}
        price = endpoint.price or (base.price if base is not None else None)
        route |= {"served_model": endpoint.name, "price": price, "logs": endpoint.logs}
        routes.append(Route.model_construct(**route, servers=urls))
        states[name] = _state(endpoint, named, sum(part.pods for part in family))
    return routes, states


def _state(endpoint: Endpoint, named: Mapping[ModelName, Endpoint], pods: int) -> EndpointState:
    base = named.get((endpoint.namespace, endpoint.base))
    if base is None or base.base != base.name:  # an adapter of nothing: its condition says so
        return EndpointState(reason=endpoint.reason, message=endpoint.message)
    # What the base lacks is what the adapter lacks first.
    cause = endpoint if base.is_ready or not base.reason else base
    return EndpointState(base.can_wake, base.queue, base.timeout, pods, endpoint.is_ready, cause.reason, cause.message)


def merge_dated_keys(secrets: Iterable[DatedKey]) -> tuple[list[Key], list[str]]:
    """Return the keys that open something, and a sentence for each other one.

    Of Secrets with the same digest in one namespace, the oldest one counts. In several namespaces, none does: a digest
    is no secret, and an old Secret can be given the digest of another namespace's key. Clients of that key would then
    send their prompts to the servers of whoever did so.
    """
    dated = sorted(secrets, key=lambda each: (each.created, each.key.namespace, each.key.name))
    namespaces: dict[str, set[str]] = defaultdict(set)
    for each in dated:
        namespaces[each.key.digest].add(each.key.namespace)
    clear = (each for each in dated if len(namespaces[each.key.digest]) == 1)
    keys, errors = merge_keys((_place(each), each.key) for each in clear)
    for each in dated:
        if len(of_digest := namespaces[each.key.digest]) > 1:
            problem = f"Secrets of the namespaces {', '.join(sorted(of_digest))} have it, so that none of them opens"
            errors.append(one_line(f"{_place(each)}: digest: {problem} anything: create this key again"))
    return keys, errors


def _place(key: DatedKey) -> str:
    return f"Secret {key.key.namespace}/{key.key.name}"


def _validate(model: type[_M], item: Json) -> _M:
    try:
        return model.model_validate(item, by_alias=True, by_name=False)
    except ValidationError as invalid:
        raise ValueError("; ".join(map(str, violations(invalid, item, model)))) from None
