"""What is observed of an InferenceEndpoint and of what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.adapter_protocol import AdapterReport
from rft_api.inference_endpoint import InferenceEndpoint
from rft_operator.inference_endpoint import names
from rft_operator.kube.kinds import DEPLOYMENT, INFERENCE_ENDPOINT, POD
from rft_operator.kube.store import Key, Store
from rft_operator.pods.deployment_view import DeploymentView, read_deployment
from rft_operator.pods.pod_view import PodView, read_pod


@dataclass(frozen=True)
class ServerAnswer:
    """What a server pod answers when asked for this endpoint's model."""

    problem: str | None
    """Why the model does not answer; none when it does."""
    adapter: AdapterReport | None = None
    """What the loader beside it says, for an adapter."""


@dataclass(frozen=True)
class InferenceEndpointWorld:
    """Everything that planning an InferenceEndpoint looks at."""

    endpoint: InferenceEndpoint
    base: InferenceEndpoint | None
    """The endpoint that baseEndpoint names, if it exists."""
    adapters: Sequence[InferenceEndpoint]
    """Endpoints whose baseEndpoint is this one."""
    deployment: DeploymentView | None
    """The endpoint's own."""
    pods: Sequence[PodView]
    """Pods of the server, which may be the base's."""
    answers: Mapping[str, ServerAnswer]
    """Answers of pods that are ready, by pod name."""
    now: datetime


def gather_inference_endpoint(
    store: Store, key: Key, endpoint: InferenceEndpoint, answers: Mapping[str, ServerAnswer], now: datetime
) -> InferenceEndpointWorld:
    """The world of an InferenceEndpoint."""
    deployments = store.children(key, DEPLOYMENT, endpoint.metadata.uid or "")
    base_name = endpoint.spec.base_endpoint
    base = None
    if base_name is not None:
        base = store.read(InferenceEndpoint, Key(INFERENCE_ENDPOINT.name, key.namespace, base_name))
    adapters = [
        adapter
        for other in store.referring(key)
        if other.kind == INFERENCE_ENDPOINT.name and (adapter := store.read(InferenceEndpoint, other)) is not None
    ]
    return InferenceEndpointWorld(
        endpoint=endpoint,
        base=base,
        adapters=adapters,
        deployment=read_deployment(deployments[0]) if deployments else None,
        pods=server_pods(store, key, endpoint),
        answers=answers,
        now=now,
    )


def server_pods(store: Store, key: Key, endpoint: InferenceEndpoint) -> list[PodView]:
    """Pods of the server that serves an endpoint: its own, or its base's."""
    owner = key._replace(name=endpoint.spec.base_endpoint or key.name)
    return [read_pod(pod, names.SERVER) for pod in store.children(owner, POD)]
