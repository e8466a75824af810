"""The operator in a pod of the real node, and a team's namespace beside it."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl, Manifest
from cluster.node import Node
from cluster.object_store import ObjectStore
from cluster.prometheus import Prometheus
from support.smollm2 import prepare_model

from rft_api.crd import build_crds
from rft_operator.rights import build_cluster_role, build_role

ROOT = Path(__file__).parents[2]
SYSTEM = "rft-system"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
BUCKET = "rft"
Image = tuple[str, Path]
"""Name and archive."""


@pytest.fixture(scope="session")
def kubectl(api_server: ControlPlane, node: Node) -> Kubectl:
    """kubectl for a cluster that has a node and our CRDs."""
    api_server.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    for name in build_crds():
        api_server.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{Path(name).stem}.rft.dev")
    return api_server.kubectl


@pytest.fixture(scope="session")
def operator(
    kubectl: Kubectl, node: Node, host_image: str, operator_image: Image, reward_image: Image, loader_image: Image
) -> Iterator[str]:
    """The operator in its own namespace; the name of its Deployment.

    Trainers and servers run this machine's Python environment, everything else the images as they are shipped.
    """
    for _, archive in (operator_image, reward_image, loader_image):
        node.load_image(archive)
    images = {"reward": reward_image[0], "loader": loader_image[0]}
    images |= dict.fromkeys(("trainer", "server-cuda", "server-cpu"), host_image)
    with kubectl.namespace(SYSTEM, RESTRICTED):
        kubectl.apply(*operator_manifests(operator_image[0], images), namespace=SYSTEM)
        kubectl("rollout", "status", "deployment/rft-operator", f"--namespace={SYSTEM}", "--timeout=120s", timeout=130)
        yield "rft-operator"


def operator_manifests(image: str, images: dict[str, str]) -> list[Manifest]:
    """What installs the operator."""
    labels = {"app": "rft-operator"}
    arguments = [f"--{name}-image={image}" for name, image in images.items()]
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    container = {
        "name": "operator",
        "image": image,
        "command": ["python", "-m", "rft_operator", *arguments],
        "env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()],
        "ports": [{"name": "metrics", "containerPort": 8080}, {"name": "liveness", "containerPort": 8081}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": "liveness"},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "resources": {"requests": {"cpu": "200m"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": "rft-operator",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": pod},
    }
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "rft-operator"}},
        build_cluster_role(),
        build_role(SYSTEM),
        *(_binding(kind) for kind in ("ClusterRole", "Role")),
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rft-operator"}, "spec": spec},
    ]


def _binding(kind: str) -> Manifest:
    """Gives the operator the rights of its ClusterRole or Role."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{kind}Binding",
        "metadata": {"name": "rft-operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "rft-operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "rft-operator", "namespace": SYSTEM}],
    }


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
def smollm2() -> Path:
    """The real model."""
    return prepare_model()


_REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the reports of a test's phases, for its fixtures."""
    report = yield
    item.stash.setdefault(_REPORTS, {})[report.when] = report
    return report


@pytest.fixture
def team(kubectl: Kubectl, operator: str, s3: ObjectStore, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that enforces `restricted`, with a Secret for the S3 server."""
    name = f"team-{secrets.token_hex(3)}"
    with kubectl.namespace(name, RESTRICTED):
        literals = [f"--from-literal={key}={value}" for key, value in s3.environment(in_pods=True).items()]
        kubectl("create", "secret", "generic", "s3-credentials", f"--namespace={name}", *literals)
        yield name
        called = request.node.stash.get(_REPORTS, {}).get("call")
        if called and called.failed:
            print(_explain(kubectl, name))


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
    ]
    return "\n".join(parts)
