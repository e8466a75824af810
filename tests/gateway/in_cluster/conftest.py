"""A gateway's permissions on the API server, and namespaces of tenants."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.control_plane import Cluster
from cluster.object_store import ObjectStore
from support.gateway_in_cluster import ClusterGateway, Team, bind_role, own_address
from support.vllm_bytes import Behaviour, Counters, VllmBytes


@pytest.fixture(scope="session")
def kubeconfig(api_server: Cluster) -> Path:
    """Of a gateway."""
    return bind_role(api_server)


@pytest.fixture
def team(api_server: Cluster, kubeconfig: Path) -> Iterator[Team]:
    """A tenant's namespace."""
    with api_server.kubectl.namespace(f"team-{secrets.token_hex(3)}") as name:
        yield Team(api_server.kubectl, name)


@pytest.fixture
def other_team(api_server: Cluster, kubeconfig: Path) -> Iterator[Team]:
    """Another tenant's namespace."""
    with api_server.kubectl.namespace(f"other-{secrets.token_hex(3)}") as name:
        yield Team(api_server.kubectl, name)


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory, kubeconfig: Path) -> Iterator[ClusterGateway]:
    with ClusterGateway(tmp_path_factory.mktemp("gateway"), kubeconfig) as gateway:
        gateway.wait_until_ready()
        yield gateway


@pytest.fixture
def gateway(shared_gateway: ClusterGateway, team: Team) -> ClusterGateway:
    """A gateway for all namespaces, with a key of the team's."""
    shared_gateway.token = team.add_key("ci")
    shared_gateway.wait_for_status(shared_gateway.token, 200)
    return shared_gateway


@pytest.fixture(scope="module")
def bucket(s3: ObjectStore) -> Path:
    """The bucket in which `tuning_gateway` keeps files."""
    return s3.make_bucket(f"files-{secrets.token_hex(6)}")


@pytest.fixture(scope="module")
def tuning_gateway(
    tmp_path_factory: pytest.TempPathFactory, kubeconfig: Path, s3: ObjectStore, bucket: Path
) -> Iterator[ClusterGateway]:
    """A gateway with the fine-tuning API, which keeps files on a real S3 server."""
    path = tmp_path_factory.mktemp("gateway")
    arguments = ("--fine-tuning", "--files", f"s3://{bucket.name}/kept", "--files-staging", str(path / "staging"))
    gateway = ClusterGateway(path, kubeconfig, *arguments)
    gateway.environment |= s3.environment()
    with gateway:
        gateway.wait_until_ready()
        yield gateway


@pytest.fixture(scope="module")
def pod_server() -> Iterator[VllmBytes]:
    with VllmBytes("base", "tax", host=own_address()) as server:
        yield server


@pytest.fixture
def pod(pod_server: VllmBytes) -> VllmBytes:
    """A stand-in for a server pod, which serves `base` and its adapter `tax`."""
    pod_server.behaviour, pod_server.counters = Behaviour(), Counters()
    pod_server.models = ["base", "tax"]
    pod_server.bodies, pod_server.headers = [], []
    return pod_server
