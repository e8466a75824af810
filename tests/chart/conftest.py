"""Helm, and an API server that knows the kinds that the chart may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.build import module_folder
from cluster.cache import Report
from cluster.control_plane import Cluster
from cluster.kubectl import Kubectl
from support.helm import Helm

from rft_api.crd import build_crds

ROOT = Path(__file__).parents[2]
PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"


@pytest.fixture(scope="session")
def chart(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(helm, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def kubectl(api_server: Cluster, report: Report) -> Kubectl:
    """For an API server with our CRDs and the Prometheus operator's."""
    kubectl = api_server.kubectl
    monitoring = module_folder("monitoring", PROMETHEUS_OPERATOR, report) / "example" / "prometheus-operator-crd"
    kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    names = [f"{Path(name).stem}.rft.dev" for name in build_crds()]
    for name in ("podmonitors", "prometheusrules"):
        kubectl("apply", "--server-side", "-f", str(monitoring / f"monitoring.coreos.com_{name}.yaml"))
        names.append(f"{name}.monitoring.coreos.com")
    for name in names:
        kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{name}")
    return kubectl
