"""What the test cluster is built from. The modules' versions are pinned in modules/*/go.mod and go.sum."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

GO = "1.26.6"
"""Installed where the machine has no Go, or one older than GO_MINIMUM."""
GO_MINIMUM = (1, 26)
KUBERNETES = "1.35.4"
"""The last minor version that runs with containerd 1.x and, when told so, on cgroup v1."""

MODULES = Path(__file__).parent / "modules"
_KUBERNETES_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Binary:
    """A program built from a Go module.

    Attributes:
        name: what the program is called.
        module: folder in modules/ with the go.mod that pins it.
        package: its main package.
        tags: build tags.
        variables: values that the linker puts into string variables.
    """

    name: str
    module: str
    package: str
    tags: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    def flags(self) -> list[str]:
        """Flags for `go build`."""
        linker = ["-s", "-w", *(f"-X={name}={value}" for name, value in self.variables)]
        return [f"-tags={self.tags}", f"-ldflags={' '.join(linker)}"]

    def key(self) -> str:
        """A digest of everything that decides what is built, but for the Go version."""
        parts = [platform.machine(), self.package, *self.flags()]
        files = sorted(path for path in (MODULES / self.module).rglob("*") if path.is_file())
        parts += [path.read_text(encoding="utf-8") for path in files]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _kubernetes(name: str) -> Binary:
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    variables = tuple((f"{_KUBERNETES_VERSION}.{variable}", value) for variable, value in values.items())
    return Binary(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", variables=variables)


def _prometheus(name: str) -> Binary:
    # Of the service discoveries only Kubernetes': the others pull in the clients of every cloud.
    tags = "remove_all_sd,enable_kubernetes_sd"
    return Binary(name, "prometheus", f"github.com/prometheus/prometheus/cmd/{name}", tags=tags)


_ALL = [
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    *map(_kubernetes, ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")),
    *map(_kubernetes, ("kubelet", "kube-proxy")),
    Binary("coredns", "coredns", "rft.dev/tests/coredns"),
    Binary("pause", "pause", "rft.dev/tests/pause"),
    Binary("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    _prometheus("prometheus"),
    _prometheus("promtool"),
    Binary("prometheus-operator", "monitoring", "github.com/prometheus-operator/prometheus-operator/cmd/operator"),
    Binary("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
]
BINARIES = {binary.name: binary for binary in _ALL}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kube-proxy", "coredns", "pause")
