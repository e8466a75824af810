"""Helm, and an API server that knows the kinds that the chart may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.control_plane import Cluster
from cluster.kubectl import CRDS, Kubectl
from support.helm import Helm


@pytest.fixture(scope="session")
def chart(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    return Helm(helm, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def kubectl(api_server: Cluster, monitoring_kinds: None) -> Kubectl:
    """For an API server with our CRDs and the Prometheus operator's."""
    api_server.kubectl.apply_definitions(CRDS)
    return api_server.kubectl
