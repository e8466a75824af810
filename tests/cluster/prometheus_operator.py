"""The real Prometheus operator, which writes a Prometheus' configuration from monitors and rules."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import yaml

from cluster.build import module_folder
from cluster.cache import Report
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl, Manifest
from cluster.servers import Server
from rft_api.ports import free_port

MODULE = "github.com/prometheus-operator/prometheus-operator"
NAME = "test"


def apply_monitoring_kinds(kubectl: Kubectl, report: Report) -> None:
    """Makes the Prometheus operator's kinds known to an API server."""
    folder = module_folder("monitoring", MODULE, report) / "example" / "prometheus-operator-crd"
    kubectl.apply_definitions(folder)


class PrometheusOperator:
    """Makes scrape configurations and rules of every PodMonitor and PrometheusRule there is."""

    def __init__(self, folder: Path, binary: Path, plane: ControlPlane, namespace: str):
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._kubectl = plane.kubectl
        self._of = f"--namespace={namespace}"
        self._namespace = namespace
        command = [
            str(binary),
            f"--apiserver=https://127.0.0.1:{plane.port}",
            f"--ca-file={plane.authority.pair.certificate}",
            f"--cert-file={plane.admin.certificate}",
            f"--key-file={plane.admin.key}",
            f"--web.listen-address=127.0.0.1:{free_port()}",
        ]
        self.server = Server("prometheus-operator", command, folder)

    def start(self) -> None:
        """Starts it, and asks it for a Prometheus without pods."""
        everything: dict[str, Any] = {
            f"{kind}{selector}": {} for kind in ("podMonitor", "rule") for selector in ("Selector", "NamespaceSelector")
        }
        prometheus: Manifest = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "Prometheus",
            "metadata": {"name": NAME},
            "spec": {"replicas": 0, **everything},
        }
        self._kubectl.apply(prometheus, namespace=self._namespace)
        self.server.start()

    def stop(self) -> None:
        """Ends it."""
        self.server.kill()

    def written(self, monitors: int) -> tuple[list[dict[str, Any]], list[Path]]:
        """The scrape configurations of that many monitors, for a Prometheus outside of the cluster, and rule files."""

        def read() -> list[dict[str, Any]]:
            found = self._kubectl.run("get", "secret", f"prometheus-{NAME}", self._of, "--output=yaml")
            if found.returncode:
                return []
            data = yaml.safe_load(found.stdout)["data"]["prometheus.yaml.gz"]
            # In a pod a program beside Prometheus fills this in.
            text = gzip.decompress(base64.b64decode(data)).decode().replace("$(SHARD)", "0")
            return list(yaml.safe_load(text).get("scrape_configs") or [])

        self.server.wait(lambda: len(read()) == monitors)
        configurations = read()
        for configuration in configurations:
            for discovery in configuration["kubernetes_sd_configs"]:
                discovery["kubeconfig_file"] = str(self._kubectl.kubeconfig)
        return configurations, self._rules()

    def _rules(self) -> list[Path]:
        name = f"prometheus-{NAME}-rulefiles-0"
        rules = self._kubectl.wait_for("configmap", name, self._of, until=lambda found: bool(found.get("data")))
        files = []
        for key, text in rules["data"].items():
            files.append(self._folder / key)
            files[-1].write_text(text, encoding="utf-8")
        return files
