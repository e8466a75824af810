"""Pods on the real node: they run, are logged, resolve names, reach Services and are reached."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.patience import PATIENCE_SECONDS, uncounted

from cluster import network
from cluster.control_plane import ControlPlane
from cluster.images import build_image
from cluster.node import HOST_INTERFACE, NAME, Node
from cluster.other_runs import OtherRun

IMAGE = "localhost/tests/greeter:1"
DOCKERFILE = """
ARG BASE
FROM ${BASE}
RUN python3 -c "print('hello from the image')" > /greeting
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["python3"]
"""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def greeter(node: Node, run_folder: Path, report: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    node.load_image(build_image(IMAGE, context, run_folder / "images", report))
    return IMAGE


@pytest.fixture
def restricted(api_server: ControlPlane, greeter: str, namespace: str) -> str:
    """A namespace that admits only pods without any privilege."""
    api_server.kubectl("label", "namespace", namespace, *(f"{key}={value}" for key, value in RESTRICTED.items()))
    return namespace


def pod(name: str, *command: str, **changes: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": list(command),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
        **changes,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }


def service(name: str, headless: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]}
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def finished(kubectl: Any, namespace: str, name: str) -> tuple[str, str]:
    """The last phase of a pod and its log."""
    found = kubectl.wait_for(
        "pod", name, f"--namespace={namespace}",
        until=lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"),
    )  # fmt: skip
    return found["status"]["phase"], kubectl("logs", name, f"--namespace={namespace}")


def test_a_pod_without_privileges_runs_and_is_logged(api_server, restricted):
    program = "import os; print(open('/greeting').read().strip(), os.getuid())"
    api_server.kubectl.apply(pod("hello", "-c", program), namespace=restricted)
    assert finished(api_server.kubectl, restricted, "hello") == ("Succeeded", "hello from the image 1000\n")


def test_pods_and_services_are_reached_by_name_and_address(api_server, restricted):
    kubectl = api_server.kubectl
    server = pod("server", "-m", "http.server", "8000", "--directory", "/")
    server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    kubectl.apply(server, service("server"), namespace=restricted)
    kubectl.wait("condition=Ready", "pod/server", f"--namespace={restricted}")
    long = f"server.{restricted}.svc.{network.DOMAIN}"
    program = "import sys, urllib.request as r; print(*(r.urlopen(u).read().decode().strip() for u in sys.argv[1:]))"
    urls = [f"http://{host}/greeting" for host in ("server", long)]
    kubectl.apply(pod("client", "-c", program, *urls), namespace=restricted)
    assert finished(kubectl, restricted, "client") == ("Succeeded", "hello from the image hello from the image\n")
    # And from this machine.
    address = kubectl.get("service", "server", f"--namespace={restricted}")["spec"]["clusterIP"]
    pod_address = kubectl.get("pod", "server", f"--namespace={restricted}")["status"]["podIP"]
    for url in (f"http://{address}/greeting", f"http://{pod_address}:8000/greeting"):
        assert httpx.get(url, trust_env=False, timeout=PATIENCE_SECONDS).text == "hello from the image\n"
    shown = kubectl("exec", "server", f"--namespace={restricted}", "--", "python3", "-c", "print(6 * 7)")
    assert shown == "42\n"


def test_the_pods_of_an_indexed_job_find_one_another_before_they_are_ready(api_server, restricted):
    """How trainer pods meet: by index, through a headless Service."""
    kubectl = api_server.kubectl
    program = (
        "import os, socket, time\n"
        "peer = f'pair-{1 - int(os.environ[\"JOB_COMPLETION_INDEX\"])}.pair'\n"
        "while True:\n"
        "    try:\n"
        "        print(peer, socket.gethostbyname(peer)); time.sleep(3); break\n"
        "    except OSError:\n"
        "        time.sleep(0.1)\n"
    )
    template = pod("pair", "-c", program)
    template["spec"]["subdomain"] = "pair"
    spec = {
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0,
        "template": {"metadata": template["metadata"], "spec": template["spec"]},
    }  # fmt: skip
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pair"}, "spec": spec}
    kubectl.apply(service("pair", headless=True), job, namespace=restricted)
    kubectl.wait("condition=Complete", "job/pair", f"--namespace={restricted}")


def test_a_pod_reaches_servers_of_this_machine(api_server, restricted, s3):
    (s3.make_bucket("pods") / "a").write_text("content", encoding="utf-8")
    program = (
        "import sys, urllib.error, urllib.request\n"
        "try:\n    urllib.request.urlopen(sys.argv[1])\nexcept urllib.error.HTTPError as error:\n    print(error.code)"
    )
    api_server.kubectl.apply(pod("reader", "-c", program, f"{s3.pod_url}/pods/a"), namespace=restricted)
    assert finished(api_server.kubectl, restricted, "reader") == ("Succeeded", "403\n")


def test_a_pod_over_its_memory_limit_is_killed(api_server, restricted):
    api_server.kubectl.apply(pod("hungry", "-c", "x = b'1' * (512 << 20)"), namespace=restricted)
    assert finished(api_server.kubectl, restricted, "hungry")[0] == "Failed"
    status = api_server.kubectl.get("pod", "hungry", f"--namespace={restricted}")["status"]
    assert status["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"


def test_an_image_that_does_not_exist_is_named(api_server, restricted):
    missing = pod("missing", "-c", "", image="localhost/tests/missing:1")
    api_server.kubectl.apply(missing, namespace=restricted)

    def waiting(found: dict[str, Any]) -> bool:
        states = found["status"].get("containerStatuses", [])
        return any(state["state"].get("waiting", {}).get("reason") == "ErrImageNeverPull" for state in states)

    api_server.kubectl.wait_for("pod", "missing", f"--namespace={restricted}", until=waiting)


def test_a_pod_can_use_the_python_of_this_machine(api_server, restricted, host_image):
    program = "import rft_trainer, sys, torch; print(torch.__version__, sys.version_info.micro)"
    command = ["python", "-c", program]
    environment = [{"name": "TMPDIR", "value": "/scratch"}]
    mounted = pod("mounted", image=host_image, command=command, resources={}, env=environment)
    mounted["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    mounted["spec"]["containers"][0]["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch"}]
    api_server.kubectl.apply(mounted, namespace=restricted)
    phase, log = finished(api_server.kubectl, restricted, "mounted")
    assert phase == "Succeeded", log
    torch, micro = log.split()
    assert torch.startswith(version("torch").partition("+")[0])
    assert int(micro) == sys.version_info.micro


KILLED = """
import time
from cluster.build import find_binaries
from cluster.control_plane import ControlPlane
from cluster.node import Node
from cluster.runs import RunFolder
from cluster.versions import CONTROL_PLANE, NODE
run = RunFolder()
plane = ControlPlane(run.path / "control-plane", find_binaries(CONTROL_PLANE, print))
plane.start()
node = Node(run.path / "node", plane, find_binaries(NODE, print), print)
node.start()
print(f"\\n{run.path}", flush=True)
time.sleep(10**6)
"""


def test_a_killed_run_leaves_nothing_of_its_node(node_binaries):
    settings = Path("/proc/sys/vm/overcommit_memory").read_text()
    with uncounted():  # it waits for the one node of this machine, too
        run = OtherRun(KILLED)
    assert {program.name() for program in run.programs} >= {"containerd"}
    run.kill()
    assert HOST_INTERFACE not in psutil.net_if_addrs()
    assert str(run.folder) not in Path("/proc/mounts").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/*{run.folder.name}*"))
    assert Path("/proc/sys/vm/overcommit_memory").read_text() == settings


def test_the_node_is_what_kubectl_shows(api_server, node):
    shown = api_server.kubectl("get", "nodes", "--output=wide")
    assert NAME in shown
    assert network.NODE in shown
