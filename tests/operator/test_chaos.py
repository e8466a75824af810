"""The operator killed at random moments of jobs' lives: each life ends as an undisturbed one does."""

from __future__ import annotations

import json
import random
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.control_plane import Cluster
from cluster.kubectl import Kubectl
from pretending import Kubelet, Operator, running_operator
from test_on_api_server import RESULT, REWARD, ROOT, TRAINERS, job, wait_for

KILLS = 50
LONGEST_LIFE_SECONDS = 3.0
"""Of an operator's process; about half of the time it is only starting."""
KINDS = "jobs,deployments,services,configmaps,secrets,networkpolicies,rftjobs,rewardfunctions,inferenceendpoints"
OF_THE_MOMENT = {
    "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "lastTransitionTime", "startTime",
    "completionTime", "measuredAt", "clusterIP", "clusterIPs", "controller-uid", "batch.kubernetes.io/controller-uid",
    "observedGeneration", "usage",
}  # fmt: skip


class Chaos(threading.Thread):
    """Kills the operator again and again."""

    def __init__(self, operator: Operator):
        super().__init__(daemon=True)
        self._operator = operator
        self._ended = threading.Event()
        self._random = random.Random(0)
        self.kills = 0

    def run(self) -> None:
        while not self._ended.wait(self._random.uniform(0, LONGEST_LIFE_SECONDS)):
            self._operator.kill()
            self.kills += 1
            self._operator.start()

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def operator(kubectl: Kubectl, tmp_path: Path) -> Iterator[Operator]:
    with running_operator(kubectl.kubeconfig, tmp_path / "log") as running:
        yield running


@pytest.fixture
def kubectl(api_server: Cluster) -> Kubectl:
    api_server.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    api_server.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/rftjobs.rft.dev")
    return api_server.kubectl


def life(kubectl: Kubectl) -> Any:
    """A job whose first attempt fails and whose second one succeeds; returns what is left at its end."""
    with kubectl.namespace(f"life-{secrets.token_hex(3)}") as namespace:
        kubelet = Kubelet(kubectl, namespace)
        kubectl.apply(REWARD, job(endpoint={"name": "tuned"}), namespace=namespace)
        (server,) = pods(kubelet, "app.kubernetes.io/component=reward-server")
        kubelet.run(server, "reward-server")
        (first,) = pods(kubelet, TRAINERS)
        kubelet.run(first, "trainer")
        kubelet.end(first, "trainer", 1, "Unexpected: lightning")
        kubectl.wait_for(
            "rftjob/job", f"--namespace={namespace}", until=lambda found: found["status"].get("retries"), seconds=180
        )
        (second,) = pods(kubelet, TRAINERS)
        kubelet.run(second, "trainer")
        kubelet.end(second, "trainer", 0, json.dumps(RESULT))
        wait(kubectl, namespace, "rftjob/job", "EndpointReady", "BaseNotReady")
        wait(kubectl, namespace, "inferenceendpoint/tuned-base", "Ready", "Unschedulable")
        found = kubectl.get(KINDS, f"--namespace={namespace}")["items"]
        owned = [item for item in found if item["metadata"]["name"] not in ("kube-root-ca.crt", "default")]
        text = json.dumps([timeless(item) for item in owned]).replace(namespace, "NAMESPACE")
        # Digests, of contents that hold the namespace or an object's uid; pods' random names; times.
        text = re.sub(r"-[0-9a-f]{8,10}\b|\b[0-9a-f]{64}\b", "-DIGEST", text)
        text = re.sub(r"-DIGEST-[a-z0-9]{5}\b", "-POD", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
        return sorted(json.loads(text), key=lambda item: (item["kind"], item["metadata"]["name"]))


def pods(kubelet: Kubelet, selector: str) -> list[str]:
    return kubelet.pods(selector, seconds=180)


def wait(kubectl: Kubectl, namespace: str, name: str, kind: str, wanted: str) -> None:
    wait_for(kubectl, namespace, name, kind, wanted, seconds=180)


def timeless(value: Any) -> Any:
    """An object without what differs between two equal lives."""
    if isinstance(value, dict):
        if value.get("kind") == "Secret":
            value = {**value, "data": sorted(value.get("data", {}))}
        return {name: timeless(item) for name, item in value.items() if name not in OF_THE_MOMENT}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_an_operator_killed_at_random_moments_ends_where_an_undisturbed_one_does(kubectl, operator):
    undisturbed = life(kubectl)
    assert {"Job", "Deployment", "InferenceEndpoint"} <= {item["kind"] for item in undisturbed}
    chaos = Chaos(operator)
    chaos.start()
    lives = []
    try:
        while chaos.kills < KILLS:
            lives.append(life(kubectl))
    finally:
        chaos.end()
    for ended in lives:
        different = "\n".join(differences(ended, undisturbed))
        assert not different, different


def differences(left: Any, right: Any, place: str = "") -> Iterator[str]:
    """Where two objects differ, and in what."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted({*left, *right}):
            yield from differences(left.get(name), right.get(name), f"{place}.{name}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, pair in enumerate(zip(left, right, strict=True)):
            yield from differences(*pair, f"{place}[{index}]")
    elif left != right:
        yield f"{place}: {left} instead of {right}"
