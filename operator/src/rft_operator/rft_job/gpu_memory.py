"""Find out how much memory the GPUs of a job will have: from its manifest, or from the labels of nodes.

GPU feature discovery of NVIDIA labels each node with the memory of its GPUs in MiB: `nvidia.com/gpu.memory`. The slices
of divided GPUs have the name of their resource with the same ending.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rft_api.model import Json
from rft_api.resource import PodOverrides
from rft_api.rft_job import Compute
from rft_operator.kube.cluster import Denied
from rft_operator.kube.nodes import Nodes

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_NAME = re.compile(rf"({_DNS_LABEL}(\.{_DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
"""What the API server takes for the name of a label: it answers a list by another name with an error."""
_KEEPS_AWAY = ("NoSchedule", "NoExecute")
_FOR_A_WHILE = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
"""How the keys of taints begin that Kubernetes puts on nodes while they are not ready, under pressure or cordoned."""


@dataclass(frozen=True)
class GpuMemory:
    """How much memory each GPU of a job has."""

    bytes: int | None
    """The memory in bytes; None when it is not known, or the trainer's configuration states it."""
    source: str
    """Where it is known from, or why it is not."""
    largest: GpuMemory | None = None
    """That of the largest GPUs that the job may get, if this is that of the smallest."""


STATED = GpuMemory(None, "compute.gpuMemory")
"""The manifest states it, and the trainer's configuration with it."""


NOT_ASKED = GpuMemory(None, "no node was asked")
"""Nodes are asked only when a job is about to start."""


async def read_gpu_memory(nodes: Nodes, compute: Compute, queued: bool = False) -> GpuMemory:
    """Return what the labels of nodes say about the GPUs of a job; see `choose_gpu_memory`."""
    label = _label(compute)
    if _LABEL_NAME.fullmatch(label) is None:
        return choose_gpu_memory([], compute)
    try:
        labelled_nodes = await nodes.labelled(label)
    except Denied:
        return GpuMemory(None, "the operator may not list nodes")
    return choose_gpu_memory(labelled_nodes, compute, queued)


def choose_gpu_memory(nodes: Iterable[Json], compute: Compute, queued: bool = False) -> GpuMemory:
    """Return the memory of the GPUs of those nodes on which the pods of a job may run.

    Args:
        nodes: the nodes.
        compute: what the job asks for.
        queued: whether Kueue starts the job: it gives pods the labels and tolerations of the flavor that it chooses.
    """
    pod, label = compute.pod or PodOverrides(), _label(compute)
    if queued:
        pod = pod.model_copy(update={"tolerations": [{"operator": "Exists"}]})
    affinity = (pod.affinity or {}).get("nodeAffinity")
    if isinstance(affinity, dict) and "requiredDuringSchedulingIgnoredDuringExecution" in affinity:
        return GpuMemory(None, "the job chooses nodes by compute.pod.affinity")
    sizes = {
        node["metadata"]["name"]: int(size)
        for node in nodes
        if _may_run(node, pod, compute)
        and re.fullmatch(r"[1-9][0-9]{0,9}", size := node["metadata"].get("labels", {}).get(label, ""))
    }
    if not sizes:
        return GpuMemory(None, f"no node on which the job may run has the label {label}")
    smallest, largest = (choose(sizes, key=lambda node: (sizes[node], node)) for choose in (min, max))
    if sizes[smallest] == sizes[largest]:
        return GpuMemory(sizes[smallest] << 20, f"label {label} of node {smallest}")
    among = f"of {len(sizes)} nodes on which the job may run"
    return GpuMemory(
        sizes[smallest] << 20,
        f"label {label} of node {smallest}, the smallest {among}",
        GpuMemory(sizes[largest] << 20, f"label {label} of node {largest}, the largest {among}"),
    )


def _label(compute: Compute) -> str:
    return f"{compute.gpu_resource}.memory"


def _may_run(node: Json, pod: PodOverrides, compute: Compute) -> bool:
    """Return whether a node has enough GPUs, the labels that the pod selects, and no taint that keeps the pod away."""
    labels, resource = node["metadata"].get("labels", {}), compute.gpu_resource
    count = node.get("status", {}).get("allocatable", {}).get(resource, "")
    if re.fullmatch(r"[0-9]{1,9}", count) is None or int(count) < max(1, compute.pod_gpus):
        return False
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return False
    return all(
        # Clusters that taint nodes with GPUs by the resource add the toleration to pods by themselves.
        taint["key"] == resource
        or taint["key"].startswith(_FOR_A_WHILE)
        or any(_tolerates(toleration, taint) for toleration in pod.tolerations)
        for taint in node.get("spec", {}).get("taints", [])
        if taint.get("effect") in _KEEPS_AWAY
    )


def _tolerates(toleration: Json, taint: Json) -> bool:
    """Return whether a toleration is for a taint, as Kubernetes decides it."""
    if (toleration.get("effect") or taint["effect"]) != taint["effect"]:
        return False
    key = toleration.get("key") or ""
    if toleration.get("operator") == "Exists":
        return key in ("", taint["key"])
    return (key, toleration.get("value") or "") == (taint["key"], taint.get("value", ""))
