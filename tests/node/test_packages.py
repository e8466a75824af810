"""Packages of rewards in real pods: an init container installs them from an index, and the sandbox imports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster.kubectl import Kubectl, Manifest
from support.package_index import PackageIndex
from support.reward_pods import score_in_pods, selector, wait_for_ready
from support.tiny_jobs import API_VERSION, condition
from support.volumes import shared_volume
from support.wheels import build_wheel

SOURCE = """
import answers
import numpy as np

def lambda_handler(event, context):
    scores = [float(np.mean([answers.VALUE, len(sample["messages"][-1]["content"])])) for sample in event]
    return [{"id": sample["id"], "aggregate_reward_score": score} for sample, score in zip(event, scores)]
"""
PLAIN = SOURCE.replace("import numpy as np\n", "").replace("np.mean([", "sum([")
SAMPLE = {"id": "1", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "abcd"}]}
RESTART = "import os, signal; os.kill(1, signal.SIGTERM)"


def function(name: str, source: str, requirements: list[str], **spec: Any) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": name},
        "spec": {"python": {"source": source, "requirements": requirements}, **spec},
    }


@pytest.fixture(scope="module", autouse=True)
def answers(package_index: PackageIndex) -> Path:
    """The wheel of a package that the index has in one version."""
    return build_wheel(package_index.wheels, "answers", "1.5", {"answers.py": "VALUE = 2.0\n"})


@pytest.fixture
def claim(kubectl: Kubectl, team: str, run_folder: Path) -> str:
    """A claim to a volume that all pods share."""
    kubectl.apply(*shared_volume(run_folder / f"packages-{team}", "packages"), namespace=team)
    return "packages"


def test_pods_install_packages_once_and_score_with_them(kubectl, team, package_index, answers, claim):
    of = f"--namespace={team}"
    pod = {"volumes": [{"name": "packages", "persistentVolumeClaim": {"claimName": claim}}]}
    test = {"prompt": "?", "completion": "abcdef", "expect": {"minimum": "4", "maximum": "4"}}
    manifest = function("mean", SOURCE, ["answers>=1", "numpy==2.2.*"], pod=pod, tests=[test])
    before = len(package_index.downloads)
    kubectl.apply(manifest, namespace=team)
    wait_for_ready(kubectl, team, "mean")
    assert score_in_pods(kubectl, team, "mean", [SAMPLE])[0]["aggregate_reward_score"] == 3.0
    downloads = list(package_index.downloads)
    assert {file.split("-")[0] for file in downloads[before:]} == {"answers", "numpy"}
    # Neither a pod that restarts its server nor another pod with the same volume installs anything again.
    (first,) = kubectl.get("pods", of, selector("mean"))["items"]
    name = first["metadata"]["name"]
    written = kubectl.run("exec", name, of, "--", "touch", "/packages/new")
    assert "Read-only file system" in written.stderr
    kubectl.run("exec", name, of, "--", "python", "-c", RESTART)  # may itself be ended with its container
    kubectl.wait_for("pod", name, of, until=has_restarted)
    manifest["spec"]["replicas"] = 2
    kubectl.apply(manifest, namespace=team)
    wait_for_ready(kubectl, team, "mean")
    kubectl.wait_for("pods", of, selector("mean"), until=lambda pods: [*map(is_ready, pods["items"])] == [True, True])
    assert score_in_pods(kubectl, team, "mean", [SAMPLE])[0]["aggregate_reward_score"] == 3.0
    assert package_index.downloads == downloads


def test_packages_of_the_image_need_no_index(kubectl, team, package_index):
    before = len(package_index.downloads)
    source = PLAIN.replace("import answers\n", "import numpy\n").replace("answers.VALUE", "float(numpy.hypot(3, 4))")
    kubectl.apply(function("bundled", source, ["numpy==2.*", "math-verify[antlr4_13_2]"]), namespace=team)
    wait_for_ready(kubectl, team, "bundled")
    assert score_in_pods(kubectl, team, "bundled", [SAMPLE])[0]["aggregate_reward_score"] == 9.0
    assert package_index.downloads[before:] == []


def is_ready(pod: Manifest) -> bool:
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in pod["status"]["conditions"])


def has_restarted(pod: Manifest) -> bool:
    return bool(pod["status"]["containerStatuses"][0]["restartCount"] == 1) and is_ready(pod)


@pytest.mark.parametrize(
    ("requirement", "says"),
    [("answers==9", "there is no version of answers==9"), ("unanswered", "unanswered was not found")],
)
def test_packages_that_cannot_be_installed_are_said_and_can_be_corrected(
    kubectl, team, package_index, answers, requirement, says
):
    kubectl.apply(function("wrong", PLAIN, [requirement]), namespace=team)
    message = condition(wait_for_ready(kubectl, team, "wrong", "ConfigurationInvalid"), "Ready")["message"]
    assert f"the packages {requirement} could not be installed" in message
    assert says in message
    assert "Correct `requirements`" in message
    before = len(package_index.downloads)
    kubectl.apply(function("wrong", PLAIN, ["answers>=1"]), namespace=team)
    wait_for_ready(kubectl, team, "wrong")
    assert score_in_pods(kubectl, team, "wrong", [SAMPLE])[0]["aggregate_reward_score"] == 6.0
    assert set(package_index.downloads[before:]) == {answers.name}
