"""A control plane of these tests' own, in which the operator has its roles' permissions and no more."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.build import find_binaries
from cluster.cache import Report
from cluster.control_plane import Cluster, ControlPlane
from cluster.kubectl import CRDS
from cluster.versions import CONTROL_PLANE

# Helpers of these tests only; a package would be called `operator`, which is the standard library's.
sys.path.insert(0, str(Path(__file__).parent))

from audit import Audit
from lives import PatientKubectl, write_operator_kubeconfig


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """What the operator has asked of `plane`."""
    return Audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def plane(
    request: pytest.FixtureRequest, api_server: Cluster, audit: Audit, run_folder: Path, report: Report
) -> Iterator[ControlPlane]:
    """A control plane that may be ended, and that checks permissions as strictly as Kubernetes can.

    `api_server` is not used, but has its programs built before the tests' time limits begin.
    """
    flags = [*audit.flags, "--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
    folder = run_folder / f"plane-of-{request.module.__name__}"
    plane = ControlPlane(folder, find_binaries(CONTROL_PLANE, report), flags)
    try:
        plane.start()
        plane.kubectl.apply_definitions(CRDS)
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="module")
def operator_kubeconfig(plane: ControlPlane) -> Path:
    """Of a user that has the operator's roles on `plane`."""
    return write_operator_kubeconfig(plane)


@pytest.fixture(scope="module")
def patient_kubectl(plane: ControlPlane) -> PatientKubectl:
    """With all permissions on `plane`, and patience when its API server is away."""
    return PatientKubectl(plane.kubectl.binary, plane.kubeconfig)


@pytest.fixture
def namespace_there(plane: ControlPlane) -> Iterator[str]:
    """A namespace of `plane` for one test."""
    with plane.kubectl.namespace(f"test-{secrets.token_hex(3)}") as name:
        yield name
