"""On a real API server: a job whose planned memory does not fit ends before any pod of a trainer exists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from lives import PLANNERS, REWARD, REWARDS, TRAINERS, bind, job, wait_for
from pretending import Kubelet, Operator, running_operator, wait_until_gone

from rft_api.progress import MemoryVerdict
from rft_api.termination import memory_message
from rft_operator.kube.permissions import build_role, build_watch_role

ATTEMPTS = f"{TRAINERS},rft.dev/attempt"
FITS = MemoryVerdict(fits=True, message="each GPU needs 20.0 GiB")
TOO_LARGE = MemoryVerdict(fits=False, message="each GPU needs 160.0 GiB. What to change: tuning.type: LoRA")
ON_GPUS = {"gpusPerNode": 1, "gpuMemory": "80Gi"}


@pytest.fixture
def operator(operator_kubeconfig: Path, tmp_path: Path) -> Iterator[Operator]:
    with running_operator(operator_kubeconfig, tmp_path / "log") as running:
        yield running


@pytest.fixture
def team(plane: ControlPlane, operator: Operator, namespace_there: str) -> str:
    """A namespace with a reward that is ready."""
    serve_reward(plane.kubectl, namespace_there)
    return namespace_there


@pytest.fixture
def kubelet(plane: ControlPlane, team: str) -> Kubelet:
    return Kubelet(plane.kubectl, team)


def serve_reward(kubectl: Kubectl, namespace: str) -> None:
    kubectl.apply(REWARD, namespace=namespace)
    kubelet = Kubelet(kubectl, namespace)
    for pod in kubelet.pods(REWARDS):
        kubelet.run(pod, "reward-server")
    wait_for(kubectl, namespace, "rewardfunction/amount", "Ready", "Ready")


def condition(found: dict[str, Any], kind: str) -> dict[str, str]:
    return next(c for c in found["status"]["conditions"] if c["type"] == kind)


def attempts(kubectl: Kubectl, namespace: str) -> list[Any]:
    """The Jobs and pods of all attempts."""
    found: list[Any] = kubectl.get("jobs,pods", f"--namespace={namespace}", f"--selector={ATTEMPTS}")["items"]
    return found


def test_a_job_that_does_not_fit_ends_before_a_pod_of_its_trainer_exists(plane, team, kubelet):
    kubectl = plane.kubectl
    kubectl.apply(job(compute=ON_GPUS), namespace=team)
    (planner,) = kubelet.pods(PLANNERS)
    wait_for(kubectl, team, "rftjob/job", "Fits", "NotPlanned")
    assert attempts(kubectl, team) == []
    kubelet.end(planner, "memory-plan", 0, memory_message(TOO_LARGE))
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "DoesNotFit")
    for kind in ("Fits", "Succeeded"):
        assert condition(found, kind)["status"] == "False"
        assert TOO_LARGE.message in condition(found, kind)["message"]
    wait_until_gone(kubectl, "jobs,pods", f"--namespace={team}", f"--selector={PLANNERS}")
    assert attempts(kubectl, team) == []
    assert kubectl.get("rftjob", "job", f"--namespace={team}")["status"] == found["status"]


def test_a_job_that_fits_starts_also_when_the_operator_was_away(plane, team, kubelet, operator):
    kubectl = plane.kubectl
    kubectl.apply(job(compute=ON_GPUS), namespace=team)
    (planner,) = kubelet.pods(PLANNERS)
    operator.kill()
    kubelet.end(planner, "memory-plan", 0, memory_message(FITS))
    operator.start()
    (pod,) = kubelet.pods(ATTEMPTS)
    found = wait_for(kubectl, team, "rftjob/job", "Fits", "MemorySuffices")
    assert condition(found, "Fits")["message"] == FITS.message
    wait_until_gone(kubectl, "jobs,pods", f"--namespace={team}", f"--selector={PLANNERS}")
    kubelet.run(pod, "trainer")
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")
    assert condition(found, "Fits")["message"] == FITS.message


def test_a_job_starts_when_its_memory_cannot_be_planned(plane, team, kubelet):
    kubectl = plane.kubectl
    kubectl.apply(job(compute=ON_GPUS), namespace=team)
    (planner,) = kubelet.pods(PLANNERS)
    kubelet.end(planner, "memory-plan", 1, "error: no space left")
    kubelet.pods(ATTEMPTS)
    found = kubectl.wait_for(
        "rftjob/job",
        f"--namespace={team}",
        until=lambda found: "ended without a verdict: no space left" in condition(found, "Fits")["message"],
    )
    assert condition(found, "Fits")["status"] == "Unknown"


def test_a_changed_spec_is_planned_again(plane, team, kubelet):
    kubectl = plane.kubectl
    kubectl.apply(job(compute=ON_GPUS), namespace=team)
    (planner,) = kubelet.pods(PLANNERS)
    kubectl.apply(job(compute={**ON_GPUS, "gpuMemory": "40Gi"}), namespace=team)
    wait_until_gone(kubectl, "pod", planner, f"--namespace={team}")
    (again,) = kubelet.pods(PLANNERS)
    config = kubectl.get("configmap", "job-run", f"--namespace={team}")["data"]["job.json"]
    assert json.loads(config)["compute"]["gpuMemory"] == "40Gi"
    kubelet.end(again, "memory-plan", 0, memory_message(FITS))
    kubelet.pods(ATTEMPTS)


def test_nodes_say_how_much_memory_their_gpus_have(plane, team, kubelet):
    kubectl = plane.kubectl
    for name, size in (("gpu-large", 81559), ("gpu-small", 23034)):
        labels = {"nvidia.com/gpu.memory": str(size), "pool": name}
        kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
        patch = json.dumps({"status": {"allocatable": {"nvidia.com/gpu": "8"}, "capacity": {"nvidia.com/gpu": "8"}}})
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={patch}")
    kubectl.apply(job(compute={"pod": {"nodeSelector": {"pool": "gpu-large"}}}), namespace=team)
    (pod,) = kubelet.pods(PLANNERS)
    container = kubectl.get("pod", pod, f"--namespace={team}")["spec"]["containers"][0]
    source = "label nvidia.com/gpu.memory of node gpu-large"
    assert container["command"][-4:] == ["--gpu-source", source, "--gpu-bytes", str(81559 << 20)]


def test_an_operator_of_some_namespaces_does_without_nodes(plane, namespace_there, tmp_path):
    kubectl, user = plane.kubectl, "rft-operator-of-one"
    for role in (build_role("default"), build_watch_role(namespace_there)):
        bind(kubectl, role, user)
    kubeconfig = plane.write_kubeconfig(user, plane.authority.issue(user))
    with running_operator(kubeconfig, tmp_path / "log", arguments=[f"--watch-namespace={namespace_there}"]):
        serve_reward(kubectl, namespace_there)
        kubectl.apply(job(compute={"gpusPerNode": 1}), namespace=namespace_there)
        (pod,) = Kubelet(kubectl, namespace_there).pods(PLANNERS)
        wait_for(kubectl, namespace_there, "rftjob/job", "Fits", "NotPlanned")
    container = kubectl.get("pod", pod, f"--namespace={namespace_there}")["spec"]["containers"][0]
    assert container["command"][-2:] == ["--gpu-source", "the operator may not list nodes"]
