"""The operator in a pod of the real node, and a team's namespace beside it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.cache import Report
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from cluster.network import HOST
from cluster.node import Node
from cluster.object_store import ObjectStore
from cluster.prometheus import Prometheus
from support.helm import OPERATOR, RESTRICTED, SYSTEM, Helm, helm_homes, install_operator
from support.package_index import PackageIndex
from support.smollm2 import prepare_model
from support.volumes import shared_volume

BUCKET = "rft"
LEDGER = "ledger-of-the-gateway"
"""Names of its volume and of the claim to it."""
FORWARDED = ("numpy", "sqlglot")
"""Packages of PyPI that reward servers in pods may install."""
Image = tuple[str, Path]
"""Name and archive."""


@pytest.fixture(scope="session")
def kubectl(api_server: ControlPlane, node: Node) -> Kubectl:
    """kubectl for a cluster that has a node."""
    return api_server.kubectl


@pytest.fixture(scope="session")
def cluster_helm(kubectl: Kubectl, helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm for that cluster."""
    return Helm(helm, tmp_path_factory.mktemp("helm"), kubectl.kubeconfig)


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """The index that the init containers of reward servers install packages from. Tests add wheels to its folder."""
    index = PackageIndex(tmp_path_factory.mktemp("wheels"), forwarded=FORWARDED)
    yield index
    index.close()


@pytest.fixture(scope="session")
def chart_values(
    node: Node,
    host_image: str,
    operator_image: Image,
    gateway_image: Image,
    reward_image: Image,
    loader_image: Image,
    package_index: PackageIndex,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """The chart's values: the images that there are here, one replica, and less memory than production takes.

    Trainers and servers run this machine's Python environment, everything else the images as they are shipped. The
    operator and the gateway are scraped by annotations and by PodMonitors alike.
    """
    for _, archive in (operator_image, gateway_image, reward_image, loader_image):
        node.load_image(archive)
    return {
        "images": {
            "operator": operator_image[0],
            "gateway": gateway_image[0],
            "reward": reward_image[0],
            "loader": loader_image[0],
            **dict.fromkeys(("trainer", "serverCuda", "serverCpu"), host_image),
        },
        "accelerator": "cpu",
        "replicas": 1,
        "resources": {"requests": {"cpu": "200m"}, "limits": {"memory": "256Mi"}},
        "podAnnotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
        "gateway": {
            "enabled": True,
            "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "512Mi"}},
            "ledger": {"persistence": {"existingClaim": LEDGER}},
            "podAnnotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
        },
        # The node has no class of storage.
        "extraObjects": shared_volume(tmp_path_factory.mktemp("gateway") / LEDGER, LEDGER),
        "rewardPackages": {
            "indexUrl": package_index.url(HOST),
            "egress": [{"cidr": f"{HOST}/32", "port": package_index.port}],
        },
        "metrics": {"podMonitors": {"enabled": True, "interval": "1s"}, "rules": {"enabled": True}},
    }


@pytest.fixture(scope="session")
def operator(
    kubectl: Kubectl, cluster_helm: Helm, chart_values: dict[str, Any], monitoring_kinds: None
) -> Iterator[str]:
    """The operator in its own namespace, installed by its chart; the name of the release and of its Deployment."""
    install_operator(kubectl, cluster_helm, chart_values)
    yield OPERATOR
    kubectl.run("delete", "namespace", SYSTEM, "--wait=false")


@pytest.fixture(scope="session")
def scraped(prometheus: Prometheus, kubectl: Kubectl) -> Prometheus:
    """Prometheus, scraping every pod whose annotations ask for it, as its own example for Kubernetes does."""
    relabel = [
        {
            "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"],
            "action": "keep",
            "regex": "true",
        },
        {
            "source_labels": ["__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_annotation_prometheus_io_port"],
            "separator": ":",
            "target_label": "__address__",
        },
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"action": "labelmap", "regex": "__meta_kubernetes_pod_label_(.+)"},
    ]
    discovery = [{"role": "pod", "kubeconfig_file": str(kubectl.kubeconfig)}]
    # A label that a program states itself, such as a job's namespace, is kept.
    configuration = {"job_name": "pods", "honor_labels": True, "kubernetes_sd_configs": discovery}
    prometheus.scrape([{**configuration, "relabel_configs": relabel}])
    return prometheus


@pytest.fixture(scope="session")
def bucket(s3: ObjectStore) -> Path:
    """The folder of a bucket: its files are objects."""
    return s3.make_bucket(BUCKET)


@pytest.fixture(scope="session")
def smollm2(report: Report) -> Path:
    """The real model."""
    return prepare_model(report)


_REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the reports of a test's phases, for its fixtures."""
    report = yield
    item.stash.setdefault(_REPORTS, {})[report.when] = report
    return report


@pytest.fixture
def shell_environment(kubectl: Kubectl, helm: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of commands as a user types them, with a kubectl and a helm of this cluster."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "kubectl").symlink_to(kubectl.binary)
    (tools / "helm").symlink_to(helm)
    # A page may change the current namespace, which is written there.
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(kubectl.kubeconfig.read_bytes())
    kubeconfig.chmod(0o600)
    return {
        **os.environ,
        **helm_homes(tmp_path),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
        "KUBECACHEDIR": str(tmp_path / "kubectl-cache"),
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


@pytest.fixture
def team_name(kubectl: Kubectl, operator: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a namespace that the test makes itself, as a user does."""
    name = f"team-{secrets.token_hex(3)}"
    with _explained(kubectl, name, request):
        yield name
    kubectl.run("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def team(kubectl: Kubectl, operator: str, s3: ObjectStore, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that enforces `restricted`, with a Secret for the S3 server."""
    name = f"team-{secrets.token_hex(3)}"
    with kubectl.namespace(name, RESTRICTED):
        literals = [f"--from-literal={key}={value}" for key, value in s3.environment(in_pods=True).items()]
        kubectl("create", "secret", "generic", "s3-credentials", f"--namespace={name}", *literals)
        with _explained(kubectl, name, request):
            yield name


@contextlib.contextmanager
def _explained(kubectl: Kubectl, namespace: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints what happened in a namespace when the test has failed."""
    yield
    called = request.node.stash.get(_REPORTS, {}).get("call")
    if called and called.failed:
        print(_explain(kubectl, namespace))


def _explain(kubectl: Kubectl, namespace: str) -> str:
    """What happened in a namespace."""
    of = f"--namespace={namespace}"
    parts = [
        kubectl.run(
            "get", "rftjobs,rewardfunctions,inferenceendpoints", of, "--output=yaml", "--show-managed-fields=false"
        ).stdout,
        kubectl.run("get", "pods,jobs,services", of, "--output=wide").stdout,
        kubectl.run("get", "events", of, "--sort-by=.lastTimestamp").stdout,
    ]
    for pod in kubectl.get("pods", of)["items"]:
        name = pod["metadata"]["name"]
        parts += [f"--- {name}", kubectl.run("logs", name, of, "--all-containers", "--tail=40", "--prefix").stdout]
    parts += [
        "--- operator",
        kubectl.run("logs", "deployment/rft-operator", f"--namespace={SYSTEM}", "--tail=60").stdout,
        "--- gateways",
        kubectl.run(
            "logs", "--selector=app.kubernetes.io/component=gateway", f"--namespace={SYSTEM}", "--tail=60", "--prefix"
        ).stdout,
    ]
    return "\n".join(parts)
