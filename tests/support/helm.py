"""Helm, as tests use it, and the project's chart."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from cluster.kubectl import Kubectl, Manifest
from cluster.versions import KUBERNETES

from support.patience import PATIENCE_SECONDS

CHART = Path(__file__).parents[2] / "charts" / "rft-operator"
RELEASE = "rft"
OPERATOR = "rft-operator"
"""The release that is installed on a node."""
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
"""Labels of a namespace that admits only pods without any privilege."""
SYSTEM = "rft-system"
"""The operator's namespace."""
WAIT = ("--wait", f"--timeout={PATIENCE_SECONDS:.0f}s")
"""Arguments with which Helm returns when its objects are ready, or gone."""
INSTALL = (f"--namespace={SYSTEM}", *WAIT)
"""Arguments of an installation and of an upgrade."""
Values = Mapping[str, Any]


def helm_homes(folder: Path) -> dict[str, str]:
    """Variables with which Helm keeps its state in a folder."""
    return {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}


class Helm:
    """Helm with state of its own in `folder`, on a cluster where a kubeconfig is given."""

    def __init__(self, binary: Path, folder: Path, kubeconfig: Path | None = None):
        self._binary = binary
        self._folder = folder
        self._environment = {**os.environ, **helm_homes(folder), "KUBECONFIG": str(kubeconfig or folder / "none")}

    def run(self, *arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
        """Runs it, whatever comes out."""
        flags = ["--values=-"] if values is not None else []
        return subprocess.run(
            [str(self._binary), *arguments, *flags],
            input=json.dumps(values) if values is not None else None,  # JSON is YAML
            env=self._environment, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS + 60,  # longer than the longest that Helm itself waits
        )  # fmt: skip

    def __call__(self, *arguments: str, values: Values | None = None) -> str:
        """Its standard output.

        Raises:
            AssertionError: it failed; with what it said.
        """
        done = self.run(*arguments, values=values)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    def template(self, values: Values, namespace: str = SYSTEM, release: str = RELEASE) -> list[Manifest]:
        """Every object of the chart, those of `helm test` included."""
        rendered = self(
            "template", release, str(CHART), f"--namespace={namespace}", f"--kube-version={KUBERNETES}", values=values
        )
        return [document for document in yaml.safe_load_all(rendered) if document]


def install_operator(kubectl: Kubectl, helm: Helm, values: Values) -> None:
    """Install the chart in a namespace that admits only pods without any privilege, whatever there is of it already."""
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": RESTRICTED}})
    helm("upgrade", "--install", OPERATOR, str(CHART), *INSTALL, values=values)


def find(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one manifest of a kind, or that of a name."""
    (found,) = [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    return found
