"""Who may ask the servers of an endpoint: with a gateway nobody passes it by, without one everybody may."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from views import ADAPTER, NOW, OWN
from worlds_from_yaml import SETTINGS

from rft_api.inference_endpoint import InferenceEndpoint
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld
from rft_operator.kube.plan import Plan

GATEWAY = "https://gateway.rft-system.svc:8080/v1"
EXCLUSIVE = replace(SETTINGS, exclusive_gateway=GATEWAY)
LABELS = {
    "app.kubernetes.io/managed-by": "rft-operator",
    "app.kubernetes.io/component": "server",
    "rft.dev/owner": "x",
}


def plan(endpoint: InferenceEndpoint, exclusive: bool, policy_uid: str | None = None) -> Plan:
    world = InferenceEndpointWorld(endpoint, None, [], None, [], {}, NOW, policy_uid=policy_uid)
    return plan_inference_endpoint(world, EXCLUSIVE if exclusive else SETTINGS)


def policies(plan: Plan) -> list[dict[str, Any]]:
    return [desired.object for desired in plan.desired if desired.object["kind"] == "NetworkPolicy"]


def namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def test_with_a_gateway_others_reach_no_server():
    planned = plan(OWN, exclusive=True, policy_uid="u")
    (policy,) = policies(planned)
    assert planned.deletions == []
    assert policy["metadata"]["name"] == "x-server"
    judges = {"app.kubernetes.io/managed-by": "rft-operator", "app.kubernetes.io/component": "reward-server"}
    assert policy["spec"] == {
        "podSelector": {"matchLabels": LABELS},
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "from": [
                    namespace("rft-system"),
                    namespace("monitoring"),
                    {"podSelector": {"matchLabels": judges}},
                ],
                "ports": [{"protocol": "TCP", "port": 8000}],
            },
            {"from": [namespace("rft-system")], "ports": [{"protocol": "TCP", "port": 8081}]},
        ],
    }


def test_without_a_gateway_the_policy_goes():
    planned = plan(OWN, exclusive=False, policy_uid="u")
    assert policies(planned) == []
    (deletion,) = planned.deletions
    assert (deletion.kind.name, deletion.name, deletion.uid) == ("NetworkPolicy", "x-server", "u")
    assert plan(OWN, exclusive=False).deletions == []


@pytest.mark.parametrize("exclusive", [True, False])
def test_an_adapter_has_no_policy_because_its_base_has_the_pods(exclusive):
    planned = plan(ADAPTER, exclusive)
    assert (policies(planned), planned.deletions) == ([], [])


@pytest.mark.parametrize("endpoint", [OWN, ADAPTER], ids=["own", "adapter"])
def test_the_status_has_an_address_that_clients_reach(endpoint):
    assert plan(endpoint, exclusive=True).status["url"] == GATEWAY
    assert plan(endpoint, exclusive=False).status["url"] == "http://x-server.team.svc:8000/v1"
