"""Build the NetworkPolicy of an endpoint's servers, which leaves their door to the gateway."""

from __future__ import annotations

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json
from rft_operator.inference_endpoint import names
from rft_operator.kube import kinds
from rft_operator.kube.metadata import Owner, build_object
from rft_operator.kube.names import COMPONENT, FIELD_MANAGER, MANAGED_BY
from rft_operator.pods.peers import namespace_peer, system_peers, tcp_port
from rft_operator.settings import Settings


def build_server_policy(endpoint: InferenceEndpoint, settings: Settings) -> Json:
    """Build the NetworkPolicy of the servers.

    It allows connections from the namespace of the operator, in which the gateway runs, too, from Prometheus, and from
    the reward servers of the endpoint's namespace, which judge with the model. Servers know no keys: whoever reaches
    them asks without one, and nobody counts it.
    """
    name = endpoint.metadata.name
    judges = {"podSelector": {"matchLabels": {MANAGED_BY: FIELD_MANAGER, COMPONENT: kinds.REWARD_FUNCTION.component}}}
    return build_object(
        kinds.NETWORK_POLICY,
        Owner.of(endpoint),
        names.server(name),
        {
            "spec": {
                "podSelector": {"matchLabels": kinds.INFERENCE_ENDPOINT.child_labels(name)},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [*system_peers(settings), judges], "ports": [tcp_port(names.SERVER_PORT)]},
                    # The operator asks the loader which adapters there are.
                    {"from": [namespace_peer(settings.namespace)], "ports": [tcp_port(names.LOADER_PORT)]},
                ],
            }
        },
    )
