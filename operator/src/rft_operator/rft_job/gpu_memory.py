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

_LABEL_NAME = re.compile(r"([-a-z0-9.]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
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


STATED = GpuMemory(None, "compute.gpuMemory")
"""The manifest states it, and the trainer's configuration with it."""


NOT_ASKED = GpuMemory(None, "no node was asked")
"""Nodes are asked only when a job is about to start."""


async def read_gpu_memory(nodes: Nodes, compute: Compute) -> GpuMemory:
    """Return what the labels of nodes say about the GPUs of a job."""
    label = _label(compute)
    if _LABEL_NAME.fullmatch(label) is None:
        return choose_gpu_memory([], compute)
    try:
        found = await nodes.labelled(label)
    except Denied:
        return GpuMemory(None, "the operator may not list nodes")
    return choose_gpu_memory(found, compute)


def choose_gpu_memory(nodes: Iterable[Json], compute: Compute) -> GpuMemory:
    """Return the memory of the smallest GPUs among those nodes on which the pods of a job may run."""
    pod, label = compute.pod or PodOverrides(), _label(compute)
    affinity = (pod.affinity or {}).get("nodeAffinity")
    if isinstance(affinity, dict) and "requiredDuringSchedulingIgnoredDuringExecution" in affinity:
        return GpuMemory(None, "the job chooses nodes by compute.pod.affinity")
    sizes = {
        node["metadata"]["name"]: int(size)
        for node in nodes
        if _may_run(node, pod, compute.gpu_resource)
        and re.fullmatch(r"[1-9][0-9]{0,9}", size := node["metadata"].get("labels", {}).get(label, ""))
    }
    if not sizes:
        return GpuMemory(None, f"no node on which the job may run has the label {label}")
    name = min(sizes, key=lambda node: (sizes[node], node))
    others = f", the smallest of {len(sizes)} nodes on which the job may run" if len(set(sizes.values())) > 1 else ""
    return GpuMemory(sizes[name] << 20, f"label {label} of node {name}{others}")


def _label(compute: Compute) -> str:
    return f"{compute.gpu_resource}.memory"


def _may_run(node: Json, pod: PodOverrides, resource: str) -> bool:
    """Return whether a node has such GPUs, the labels that the pod selects, and no taint that keeps the pod away."""
    labels = node["metadata"].get("labels", {})
    if node.get("status", {}).get("allocatable", {}).get(resource, "0") == "0":
        return False
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return False
    keys = [toleration.get("key") or "" for toleration in pod.tolerations]
    if "" in keys:  # such a toleration is for every taint
        return True
    # Clusters that taint nodes with GPUs by the resource add the toleration to pods by themselves.
    tolerated = [resource, *keys]
    taints = [taint for taint in node.get("spec", {}).get("taints", []) if taint.get("effect") in _KEEPS_AWAY]
    return all(taint["key"] in tolerated or taint["key"].startswith(_FOR_A_WHILE) for taint in taints)
