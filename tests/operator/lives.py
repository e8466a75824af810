"""Lives of jobs, from their first manifest to what is left at their end, and what disturbs them on the way."""

from __future__ import annotations

import contextlib
import json
import random
import re
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from audit import OPERATOR
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from meddling import THEIRS
from pretending import Kubelet, reason
from support.patience import wait_until

from rft_operator.kube.permissions import build_cluster_role, build_role

ROOT = Path(__file__).parents[2]
REWARD: dict[str, Any] = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "RewardFunction",
    "metadata": {"name": "amount"},
    "spec": {"builtin": {"name": "Math"}},
}
JOB: dict[str, Any] = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "RFTJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"uri": "s3://models/base"},
        "data": {"train": [{"name": "a", "uri": "s3://data/a.jsonl", "reward": "amount"}]},
        "compute": {"gpusPerNode": 0},
        "output": {"uri": "s3://runs/job"},
    },
}
RESULT = {
    "steps": 20, "stoppedEarly": False, "bestStep": 10, "prompts": 64, "baseReward": 0.25, "tunedReward": 0.75,
    "checkpoints": [{"step": 10, "validationReward": 0.7}], "gain": {"mean": 0.5, "low": 0.4, "high": 0.6},
}  # fmt: skip
PLANNERS = "rft.dev/plans=memory"
TRAINERS = "app.kubernetes.io/component=trainer"
REWARDS = "app.kubernetes.io/component=reward-server"
SERVERS = "app.kubernetes.io/component=server"

STAGES = ("created", "waiting", "running", "failed", "ended")
"""Moments of a life, in order."""
KINDS = "jobs,deployments,services,configmaps,secrets,networkpolicies,rftjobs,rewardfunctions,inferenceendpoints"
OF_THE_MOMENT = {
    "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "lastTransitionTime", "startTime",
    "completionTime", "measuredAt", "clusterIP", "clusterIPs", "controller-uid", "batch.kubernetes.io/controller-uid",
    "observedGeneration", "usage", "deployment.kubernetes.io/revision", THEIRS,
}  # fmt: skip
SERVER_USERS = range(20000, 60000)
"""The numbers of the users of reward servers."""
AWAY = re.compile(r"refused|reset by peer|EOF|TLS handshake|unable to (connect|handle)|etcdserver|timed out", re.I)
"""What kubectl says when the API server is away."""


def job(**spec: Any) -> dict[str, Any]:
    """A job of little."""
    return {**JOB, "spec": {**JOB["spec"], **spec}}


def bind(kubectl: Kubectl, role: dict[str, Any], user: str) -> None:
    """Gives a user a role; returns when the API server lets the user do what it allows."""
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": role["apiVersion"],
        "kind": f"{role['kind']}Binding",
        "metadata": role["metadata"],
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
        "roleRef": {"apiGroup": group, "kind": role["kind"], "name": role["metadata"]["name"]},
    }
    namespace = role["metadata"].get("namespace", "default")
    kubectl.apply(role, binding, namespace=namespace)
    rule = role["rules"][0]
    resource = ".".join(filter(None, (rule["resources"][0], rule["apiGroups"][0])))
    asked = ["auth", "can-i", rule["verbs"][0], resource, f"--as={user}", f"--namespace={namespace}"]
    wait_until(lambda: kubectl.run(*asked).stdout.strip() == "yes", explain=lambda: f"{user} may not {asked}")


def write_operator_kubeconfig(plane: ControlPlane) -> Path:
    """The kubeconfig of a user with the operator's roles, and no other permissions."""
    for role in (build_cluster_role(), build_role("default")):
        bind(plane.kubectl, role, OPERATOR)
    return plane.write_kubeconfig(OPERATOR, plane.authority.issue(OPERATOR))


def wait_for(kubectl: Kubectl, namespace: str, name: str, kind: str, *wanted: str) -> dict[str, Any]:
    """Waits for a condition's reason, or for one of several that may follow one another at once."""
    return kubectl.wait_for(name, f"--namespace={namespace}", until=lambda found: reason(found, kind) in wanted)


class PatientKubectl(Kubectl):
    """kubectl that tries again while the API server is away."""

    poll_seconds = 0.5

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str]

        def is_answered() -> bool:
            nonlocal done
            done = super(PatientKubectl, self).run(*arguments, stdin=stdin)
            return done.returncode == 0 or not AWAY.search(done.stderr)

        wait_until(is_answered, explain=lambda: done.stderr)
        return done


class Life:
    """A job whose first attempt fails and whose second one succeeds, with its reward and its endpoints."""

    def __init__(self, kubectl: Kubectl):
        self.namespace = f"life-{secrets.token_hex(3)}"
        self.kubelet = Kubelet(kubectl, self.namespace)
        self._kubectl = kubectl

    def __enter__(self) -> Life:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._kubectl.namespace(self.namespace))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def live(self, reached: Callable[[str], object] = lambda stage: None) -> None:
        """Lives it, and tells at which stage it is."""
        self._kubectl.apply(REWARD, job(endpoint={"name": "tuned"}), namespace=self.namespace)
        reached("created")
        self._wait(
            "rewardfunction/amount",
            lambda found: self.kubelet.serve(REWARDS, "reward-server") or reason(found, "Ready") == "Ready",
        )
        first = self._trainer()
        reached("waiting")
        self.kubelet.run(first, "trainer")
        reached("running")
        self.kubelet.end(first, "trainer", 1, "Unexpected: lightning")
        self._wait("rftjob/job", lambda found: found.get("status", {}).get("retries"))
        reached("failed")
        second = self._trainer()
        self.kubelet.run(second, "trainer")
        self.kubelet.end(second, "trainer", 0, json.dumps(RESULT))
        reached("ended")
        self._wait("rftjob/job", lambda found: reason(found, "EndpointReady") == "BaseNotReady")
        self._wait("inferenceendpoint/tuned-base", lambda found: reason(found, "Ready") == "Unschedulable")
        # The operator reads the pod; Kubernetes' own word on its Job may come later.
        self._wait("job/job-trainer-1", lambda found: found.get("status", {}).get("succeeded"))

    def remains(self) -> list[dict[str, Any]]:
        """What there is now, without what differs between two equal lives."""
        found = self._kubectl.get(KINDS, f"--namespace={self.namespace}")["items"]
        owned = [item for item in found if item["metadata"]["name"] not in ("kube-root-ca.crt", "default")]
        text = json.dumps([timeless(item) for item in owned]).replace(self.namespace, "NAMESPACE")
        # Digests, of contents that hold the namespace or an object's uid; pods' random names; times.
        text = re.sub(r"-[0-9a-f]{8,10}\b|\b[0-9a-f]{64}\b", "-DIGEST", text)
        text = re.sub(r"-DIGEST-[a-z0-9]{5}\b", "-POD", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
        return sorted(json.loads(text), key=lambda item: (item["kind"], item["metadata"]["name"]))

    def versions(self) -> dict[str, str]:
        """The version of every object."""
        found = self._kubectl.get(KINDS, f"--namespace={self.namespace}")["items"]
        return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}

    def assert_ends_as(self, other: list[dict[str, Any]], but: str | None = None) -> None:
        """Waits until what is left is what another life has left, but for a condition of this type.

        Raises:
            AssertionError: with the differences.
        """
        different: list[str] = []

        def are_equal() -> bool:
            different[:] = differences(without(self.remains(), but), without(other, but))
            return not different

        wait_until(are_equal, lambda: "\n".join(different), pause=0.5)

    def _trainer(self) -> str:
        (pod,) = self.kubelet.pods(TRAINERS)
        return pod

    def _wait(self, name: str, until: Callable[[dict[str, Any]], Any]) -> None:
        self._kubectl.wait_for(name, f"--namespace={self.namespace}", until=until)


def timeless(value: Any) -> Any:
    """An object without what differs between two equal lives."""
    if isinstance(value, dict):
        if value.get("kind") == "Secret":
            value = {**value, "data": sorted(value.get("data", {}))}
        if value.get("kind") == "Deployment" and "status" in value:
            value = {**value, "status": None}  # tells its history
        if value.get("runAsUser") in SERVER_USERS:
            value = {**value, "runAsUser": "a server's own"}  # its number comes from the namespace and the name
        kept = {name: timeless(item) for name, item in value.items() if name not in OF_THE_MOMENT}
        return {name: item for name, item in kept.items() if item != {}}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def without(value: Any, condition: str | None) -> Any:
    """An object without its condition of a type."""
    if isinstance(value, dict):
        return {name: without(item, condition) for name, item in value.items()}
    if isinstance(value, list):
        dropped = [item for item in value if isinstance(item, dict) and condition and item.get("type") == condition]
        return [without(item, condition) for item in value if item not in dropped]
    return value


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


class Disturbance(threading.Thread):
    """Does something again and again, with random pauses, for as long as the context."""

    def __init__(self, disturb: Callable[[random.Random], object], least: float, most: float):
        super().__init__(daemon=True)
        self._disturb = disturb
        self._pause = least, most
        self._ended = threading.Event()
        self._random = random.Random(0)
        self._failure: Exception | None = None
        self._count = 0

    def run(self) -> None:
        try:
            while not self._ended.wait(self._random.uniform(*self._pause)):
                self._disturb(self._random)
                self._count += 1
        except Exception as error:
            self._failure = error

    @property
    def count(self) -> int:
        """How often it was done.

        Raises:
            Exception: it has failed, and will not be done again.
        """
        if self._failure is not None:
            raise self._failure
        return self._count

    def __enter__(self) -> Disturbance:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ended.set()
        self.join()
        if self._failure is not None and error is None:
            raise self._failure
