"""Endpoints with autoscale on a real API server, with gateways that say what they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cluster.kubectl import Kubectl
from lives import SERVERS, wait_for
from pretending import Kubelet, Operator, reason, running_operator
from support.gateway_demand import PretendedGateway

from rft_operator.kube.timestamps import format_timestamp, parse_timestamp

BASE: dict[str, Any] = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "InferenceEndpoint",
    "metadata": {"name": "base"},
    "spec": {
        "model": {"uri": "s3://models/base"},
        "serving": {"adapterSources": ["s3://runs"]},
        "autoscale": {"maximum": 4, "targetConcurrency": 2, "idleAfter": "10s"},
    },
}
ADAPTER = {**BASE, "metadata": {"name": "tax"}, "spec": {"baseEndpoint": "base", "adapter": {"uri": "s3://runs/tax"}}}


@pytest.fixture
def gateways() -> Iterator[list[PretendedGateway]]:
    """Two gateways."""
    both = [PretendedGateway(), PretendedGateway()]
    yield both
    for gateway in both:
        gateway.stop()


@pytest.fixture
def operator(operator_kubeconfig: Path, tmp_path: Path, gateways: list[PretendedGateway]) -> Iterator[Operator]:
    arguments = [f"--gateway-demand={gateway.url}" for gateway in gateways]
    with running_operator(operator_kubeconfig, tmp_path / "log", arguments=arguments) as running:
        yield running


def wait_for_pods(kubectl: Kubectl, namespace: str, number: int) -> None:
    """Waits until the Deployment asks for so many pods, and the status says so."""
    where = f"--namespace={namespace}"
    kubectl.wait_for("deployment/base-server", where, until=lambda found: found["spec"]["replicas"] == number)
    kubectl.wait_for("inferenceendpoint/base", where, until=lambda found: _kept(found)["replicas"] == number)


def _kept(endpoint: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = endpoint["status"]["autoscale"]
    return kept


def said(events: dict[str, Any]) -> set[str]:
    """What events say about the number of pods."""
    return {event["message"] for event in events["items"] if event["reason"] == "Scaled"}


def wake(kubectl: Kubectl, namespace: str, value: str) -> None:
    """Sets the annotation, as gateways do and anybody may."""
    kubectl("annotate", "--overwrite", "inferenceendpoint/base", f"rft.dev/wake={value}", f"--namespace={namespace}")


def test_from_zero_and_back(patient_kubectl, namespace_there, operator, gateways):
    kubectl, team = patient_kubectl, namespace_there
    first, second = gateways
    kubectl.apply(BASE, ADAPTER, namespace=team)
    for name in ("base", "tax"):
        wait_for(kubectl, team, f"inferenceendpoint/{name}", "Ready", "ScaledToZero")
    wait_for(kubectl, team, "inferenceendpoint/base", "ScalingActive", "DemandComplete")
    wait_for_pods(kubectl, team, 0)
    # What is no time, or in the future, wakes nobody: the next write is that of the real wake.
    for value in ("soon", "2999-01-01T00:00:00Z", "x" * 1000):
        wake(kubectl, team, value)
    first.tell(team, "base", waiting=1)
    wake(kubectl, team, format_timestamp(datetime.now(UTC)))
    wait_for_pods(kubectl, team, 1)
    # The scheduler soon finds that there is no node.
    wait_for(kubectl, team, "inferenceendpoint/base", "Ready", "Waking", "Unschedulable")
    wait_for(kubectl, team, "inferenceendpoint/tax", "Ready", "Waking", "BaseNotReady")
    where = f"--namespace={team}"
    kubectl.wait_for("events", where, until=lambda events: any(each["reason"] == "Waking" for each in events["items"]))
    # The sum of both gateways counts.
    first.tell(team, "base", in_flight=3)
    second.tell(team, "base", in_flight=2, waiting=2)
    wait_for_pods(kubectl, team, 4)
    kubelet = Kubelet(kubectl, team)
    for pod in kubelet.pods(SERVERS, 4):
        kubelet.run(pod, "server")
    kubectl.wait_for(
        "inferenceendpoint/base", f"--namespace={team}", until=lambda found: found["status"]["replicas"] == 4
    )
    # Without one of them no pod ends, also not after a restart of the operator.
    second.stop()
    first.tell(team, "base")
    wait_for(kubectl, team, "inferenceendpoint/base", "ScalingActive", "DemandIncomplete")
    operator.kill()
    operator.start()
    enough = datetime.now(UTC) + timedelta(seconds=25)

    def is_late(found: dict[str, Any]) -> bool:
        """Whether the operator has looked again after more than the time in which pods end."""
        assert _kept(found)["replicas"] == 4
        return parse_timestamp(_kept(found)["lastNeededTime"]) > enough

    kubectl.wait_for("inferenceendpoint/base", f"--namespace={team}", until=is_late)
    assert kubectl.get("deployment/base-server", f"--namespace={team}")["spec"]["replicas"] == 4
    # A request that goes on keeps the last pod.
    first.tell(team, "base", in_flight=1)
    gateways[1] = PretendedGateway(second.port)
    wait_for_pods(kubectl, team, 1)
    operator.kill()
    operator.start()
    first.tell(team, "base")
    wait_for(kubectl, team, "inferenceendpoint/base", "Ready", "ScaledToZero")
    wait_for_pods(kubectl, team, 0)
    wait_for(kubectl, team, "inferenceendpoint/tax", "Ready", "ScaledToZero")
    assert kubelet.pods(SERVERS, 0) == []
    last = "server pods: 1 to 0: nobody has asked for its models for 10s"
    kubectl.wait_for("events", f"--namespace={team}", until=lambda events: last in said(events))
    assert [line for line in operator.log().splitlines() if "after changes by others" in line] == []


def test_without_a_gateway_the_model_is_served(patient_kubectl, namespace_there, operator_kubeconfig, tmp_path):
    kubectl, team = patient_kubectl, namespace_there
    with running_operator(operator_kubeconfig, tmp_path / "log"):
        kubectl.apply(BASE, namespace=team)
        found = wait_for(kubectl, team, "inferenceendpoint/base", "ScalingActive", "GatewayMissing")
        assert reason(found, "Ready") in ("Starting", "Unschedulable")
        wait_for_pods(kubectl, team, 1)
        # From then on, the number is the user's again.
        replicas = {"model": BASE["spec"]["model"], "serving": BASE["spec"]["serving"], "replicas": 3}
        kubectl.apply({**BASE, "spec": replicas}, namespace=team)
        kubectl.wait_for(
            "deployment/base-server", f"--namespace={team}", until=lambda found: found["spec"]["replicas"] == 3
        )
        found = kubectl.wait_for(
            "inferenceendpoint/base", f"--namespace={team}", until=lambda found: "autoscale" not in found["status"]
        )
        assert reason(found, "ScalingActive") is None
