"""The world of an InferenceEndpoint: its observed state, and that of the objects on which its plan depends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rft_api.adapter_protocol import AdapterReport
from rft_api.inference_endpoint import InferenceEndpoint
from rft_operator.inference_endpoint import names
from rft_operator.kube.kinds import DEPLOYMENT, INFERENCE_ENDPOINT, NETWORK_POLICY, POD
from rft_operator.kube.store import Key, Store
from rft_operator.pods.demand import Demand
from rft_operator.pods.deployment_view import DeploymentView, read_deployment
from rft_operator.pods.pod_view import PodView, read_pod


@dataclass(frozen=True)
class ServerAnswer:
    """The answer of a server's pod for the model of an endpoint."""

    problem: str | None
    """Why the model does not answer; None when it does."""
    adapter: AdapterReport | None = None
    """The report of the loader in the pod, for an adapter; None without a report."""


@dataclass(frozen=True)
class InferenceEndpointWorld:
    """Everything on which the plan for an InferenceEndpoint depends."""

    endpoint: InferenceEndpoint
    """The endpoint itself."""
    base: InferenceEndpoint | None
    """The endpoint that baseEndpoint names; None when it does not exist."""
    adapters: Sequence[InferenceEndpoint]
    """The endpoints whose baseEndpoint is this one."""
    deployment: DeploymentView | None
    """The Deployment of the endpoint; None for an adapter, and before it exists."""
    pods: Sequence[PodView]
    """Pods of the server, which is that of the base endpoint for an adapter."""
    answers: Mapping[str, ServerAnswer]
    """Answers of the ready pods, by name."""
    now: datetime
    """The current time."""
    demand: Demand | None = None
    """What gateways are asked for, of an endpoint with autoscale; None when the operator was told of no gateway."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What events say about late pods, by uid; see `pods.late`."""
    policy_uid: str | None = None
    """The uid of the NetworkPolicy of the endpoint's own servers; None when there is none."""
    silent_seconds: float = 0.0
    """Seconds until the servers are asked again, when none of them answers; see `pods.silence`."""

    @property
    def own_pods(self) -> Sequence[PodView]:
        """Pods of the server, if it is the endpoint's own."""
        return () if self.endpoint.spec.model is None else self.pods


def gather_inference_endpoint(
    store: Store, key: Key, endpoint: InferenceEndpoint, answers: Mapping[str, ServerAnswer], now: datetime
) -> InferenceEndpointWorld:
    """Gather the world of an InferenceEndpoint.

    Args:
        store: the watched objects.
        key: the key of the endpoint.
        endpoint: the endpoint.
        answers: the answers of the ready pods, by name.
        now: the current time.
    """
    deployments = store.children(key, DEPLOYMENT, endpoint.metadata.uid or "")
    policies = store.children(key, NETWORK_POLICY, endpoint.metadata.uid or "")
    base_name = endpoint.spec.base_endpoint
    base = None
    if base_name is not None:
        base = store.read(InferenceEndpoint, Key(INFERENCE_ENDPOINT.name, key.namespace, base_name))
    adapters = [
        adapter
        for other in store.referrers(key)
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
        policy_uid=policies[0]["metadata"]["uid"] if policies else None,
    )


def server_pods(store: Store, key: Key, endpoint: InferenceEndpoint) -> list[PodView]:
    """Return the pods of the server of an endpoint, which is that of the base endpoint for an adapter."""
    owner = key._replace(name=endpoint.spec.base_endpoint or key.name)
    return [read_pod(pod, names.SERVER) for pod in store.children(owner, POD)]
