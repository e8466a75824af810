"""The gateway in a cluster, and what a tenant and the operator write there, for tests on a real API server."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psutil
from cluster.control_plane import Cluster, ControlPlane
from cluster.kubectl import CRDS, Kubectl
from cluster.network import HOST

from rft_api.gateway_key import Key, Limits, make_token, secret_document, token_digest
from rft_api.object_labels import COMPONENT, MANAGED_BY, OPERATOR, OWNER, SERVER_COMPONENT, SERVER_PORT_NAME
from rft_api.object_names import server
from support.fine_tuning import config_map
from support.gateway import Gateway
from support.patience import PATIENCE_SECONDS, wait_until

ROLE: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "gateway-of-tests"},
    "rules": [
        {"apiGroups": ["rft.dev"], "resources": ["inferenceendpoints"], "verbs": ["list", "watch", "patch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
        {"apiGroups": ["rft.dev"], "resources": ["inferenceendpoints"], "verbs": ["get"]},
        {"apiGroups": ["rft.dev"], "resources": ["rftjobs"], "verbs": ["get", "list", "create", "patch"]},
        {
            "apiGroups": ["rft.dev"],
            "resources": ["rewardfunctions"],
            "verbs": ["get", "list", "create", "patch", "delete"],
        },
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["rft-fine-tuning"], "verbs": ["get"]},
    ],
}
"""The permissions of a gateway, with those for the fine-tuning API."""


def bind_role(plane: Cluster) -> Path:
    """Returns a kubeconfig with a gateway's permissions and no more, where the cluster is our own."""
    plane.kubectl.apply_definitions(CRDS)
    if not isinstance(plane, ControlPlane):
        return plane.kubeconfig
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "gateway-of-tests"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE["metadata"]["name"]},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "gateway"}],
    }  # fmt: skip
    plane.kubectl.apply(ROLE, binding)
    return plane.write_kubeconfig("gateway", plane.authority.issue("gateway"))


@cache
def own_address() -> str:
    """An address of this machine that EndpointSlices may have: not a loopback one, and the same at each call.

    A test node that another process starts meanwhile adds an address, which goes away with it.
    """
    addresses = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family is socket.AF_INET and not address.address.startswith(("127.", "169.254.", HOST))
    ]
    return sorted(addresses)[0]


class ClusterGateway(Gateway):
    """A gateway that follows a cluster.

    Args:
        folder: for its files.
        kubeconfig: leads to the cluster.
        namespaces: those that it follows; all if there is none.
        arguments: further ones of its command line.
    """

    def __init__(self, folder: Path, kubeconfig: Path, *arguments: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ledger_file = folder / "ledger.db"
        self.token = ""
        self._prepare("--kubernetes", *arguments)
        self.environment["KUBECONFIG"] = str(kubeconfig)

    def is_ready(self) -> bool:
        """Whether new requests should come, as it says itself."""
        return httpx.get(f"{self.operation_url}/readyz", timeout=PATIENCE_SECONDS, trust_env=False).is_success

    def wait_until_ready(self) -> None:
        """Waits until it has read everything."""
        wait_until(self.is_ready, lambda: self.log)

    def wait_for_status(self, token: str, status: int, path: str = "/v1/models") -> None:
        """Waits until a token gets this status."""
        with self.client(token) as client:
            wait_until(lambda: client.get(path).status_code == status, lambda: self.log)


class Team:
    """A namespace, in which endpoints have a state although no operator and no node runs.

    Args:
        kubectl: with all rights.
        namespace: its name.
    """

    def __init__(self, kubectl: Kubectl, namespace: str):
        self.kubectl = kubectl
        self.namespace = namespace

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Writes objects."""
        self.kubectl.apply(*manifests, namespace=self.namespace)

    def add_base(self, name: str, **spec: Any) -> None:
        """Writes an endpoint with a model."""
        self.apply(endpoint(name, {"model": {"uri": "s3://models/base"}, **spec}))

    def add_adapter(self, name: str, base: str) -> None:
        """Writes an endpoint with an adapter."""
        self.apply(endpoint(name, {"baseEndpoint": base, "adapter": {"uri": "s3://models/adapter"}}))

    def enable_fine_tuning(self, **data: str) -> None:
        """Writes what jobs need of a namespace: the base endpoint `base`, and the ConfigMap with further keys."""
        defaults = config_map(**data)
        del defaults["metadata"]["namespace"]
        self.apply(defaults)
        self.add_base("base", serving={"adapterSources": [defaults["data"]["output"]]})

    def set_job_status(self, name: str, *conditions: dict[str, str], **status: Any) -> None:
        """Writes the status of a job, as the operator does."""
        patch = json.dumps({"status": {"conditions": list(conditions), **status}})
        self("patch", "rftjob", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def set_reward_status(self, name: str, *conditions: dict[str, str]) -> None:
        """Writes the status of a RewardFunction, as the operator does."""
        patch = json.dumps({"status": {"conditions": list(conditions)}})
        self("patch", "rewardfunction", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def set_ready(self, name: str, status: str, reason: str, message: str = "") -> None:
        """Writes the condition Ready, as the operator does."""
        condition = {
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-31T12:00:00Z",
            "observedGeneration": self.read("inferenceendpoint", name)["metadata"]["generation"],
        }  # fmt: skip
        patch = json.dumps({"status": {"conditions": [condition]}})
        self("patch", "inferenceendpoint", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def set_servers(self, base: str, *ports: int, ready: bool = True, number: int = 0) -> None:
        """Writes an EndpointSlice of an endpoint for each port of this machine, as Kubernetes' controller does."""
        self.apply(*(endpoint_slice(base, port, ready, number + index) for index, port in enumerate(ports)))

    def remove_servers(self, base: str) -> None:
        """Deletes the EndpointSlices of an endpoint."""
        self("delete", "endpointslices", f"--selector=kubernetes.io/service-name={server(base)}")

    def add_key(self, name: str, models: tuple[str, ...] = (), limits: Limits | None = None) -> str:
        """Writes a key, and returns its token."""
        token = make_token()
        self.apply(secret_document(Key(name, self.namespace, token_digest(token), models, None, limits or Limits())))
        return token

    def read(self, *arguments: str) -> dict[str, Any]:
        """Reads an object."""
        return self.kubectl.get(*arguments, f"--namespace={self.namespace}")

    def __call__(self, *arguments: str) -> str:
        """Calls kubectl in the namespace."""
        return self.kubectl(*arguments, f"--namespace={self.namespace}")

    @contextmanager
    def wakes(self, name: str) -> Iterator[Wakes]:
        """Notes each time at which an endpoint is woken, while the block lasts."""
        path = r"jsonpath={.metadata.resourceVersion} {.metadata.annotations.rft\.dev/wake}{'\n'}"
        command = [
            str(self.kubectl.binary), f"--kubeconfig={self.kubectl.kubeconfig}", "get", "inferenceendpoint", name,
            f"--namespace={self.namespace}", "--watch", f"--output={path}",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            wakes = Wakes(process)
            try:
                yield wakes
            finally:
                process.terminate()


class Wakes:
    """The times at which an endpoint was woken."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self._read_line()  # as the endpoint was

    def _read_line(self) -> tuple[str, str]:
        assert self._process.stdout is not None
        version, _, time = self._process.stdout.readline().strip().partition(" ")
        return version, time

    def until(self, version: str) -> list[str]:
        """Return the times in all versions of the endpoint up to one, in their order."""
        times: list[str] = []
        while True:
            seen, time = self._read_line()
            if time and time not in times:
                times.append(time)
            if seen == version:
                return times


def endpoint(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An InferenceEndpoint."""
    return {
        "apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint", "metadata": {"name": name}, "spec": spec
    }  # fmt: skip


def endpoint_slice(base: str, port: int, ready: bool = True, number: int = 0) -> dict[str, Any]:
    """An EndpointSlice with one pod at this machine's address; labels as the Service has them."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{base}-{number}",
            "labels": {
                MANAGED_BY: OPERATOR, COMPONENT: SERVER_COMPONENT, OWNER: base,
                "kubernetes.io/service-name": server(base),
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": SERVER_PORT_NAME, "port": port}],
        "endpoints": [{"addresses": [own_address()], "conditions": {"ready": ready}}],
    }  # fmt: skip
