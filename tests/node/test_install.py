"""The page about installing: its commands, word for word, with the images that other tests build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.kubectl import CRDS, Kubectl
from cluster.node import Node
from cluster.object_store import ObjectStore
from support import pins
from support.helm import SYSTEM, WAIT, Helm, install_operator
from support.pages import ROOT, Commands, blocks, page, script
from support.tiny import write_model

from rft_api.run_folder import RunFolder

PAGE = page("install.md")
OF = f"--namespace={SYSTEM}"
REGISTRY = "registry.example.com/rft"
"""As the page calls it; its images are on the node already."""
IMAGES = {
    "rft-operator": "operator", "rft-gateway": "gateway", "rft-reward": "reward", "rft-loader": "loader",
    "rft-trainer-cpu": "trainer",
}  # fmt: skip
"""Their names, and the chart's values with those that stand for them."""
BUILT_BY_OTHER_TESTS = [
    f"make images REGISTRY={REGISTRY}",
    "for image in rft-operator rft-gateway rft-reward rft-loader rft-trainer-cpu rft-trainer-cuda; do",
    f"  docker push {REGISTRY}/$image:{pins.version()}",
    "done",
]


@pytest.fixture
def emptied(kubectl: Kubectl, cluster_helm: Helm, operator: str, chart_values: dict[str, Any]) -> Iterator[None]:
    """The cluster without anything of ours; the operator of the other tests comes back afterwards."""
    cluster_helm("uninstall", operator, OF, *WAIT)
    kubectl.delete("namespace", SYSTEM)
    kubectl.delete("-f", str(CRDS))
    yield
    install_operator(kubectl, cluster_helm, chart_values)


@pytest.fixture
def images(node: Node, chart_values: dict[str, Any]) -> None:
    """The page's images."""
    for name, value in IMAGES.items():
        new = f"{REGISTRY}/{name}:{pins.version()}"
        node.run("ctr", "--namespace=k8s.io", "images", "tag", "--force", chart_values["images"][value], new)


@pytest.fixture
def values(s3: ObjectStore, tmp_path: Path) -> Path:
    """What the page says to set in a cluster without Hugging Face; and there are no GPUs."""
    (block,) = map(yaml.safe_load, blocks(PAGE, "yaml"))
    model = block["test"]["job"]["model"]["uri"].removeprefix("s3://")
    bucket, _, path = model.partition("/")
    write_model(s3.make_bucket(bucket) / path)
    file = tmp_path / "values.json"
    file.write_text(json.dumps({**block, "accelerator": "cpu"}), encoding="utf-8")
    return file


def test_the_commands_of_the_page(
    kubectl: Kubectl, helm: Path, emptied, images, values: Path, s3: ObjectStore, shell_environment: dict[str, str]
):
    runs = s3.make_bucket("runs")
    ours = Path(shell_environment["PATH"].partition(":")[0]) / "helm"
    ours.unlink()
    ours.write_text(f'#!/bin/sh\n[ "$1" != install ] || set -- "$@" --values {values}\nexec {helm} "$@"\n')
    ours.chmod(0o755)
    installing, heading, rest = PAGE.partition("Check everything with a real job")
    assert heading
    with Commands(script(installing, *BUILT_BY_OTHER_TESTS), ROOT, shell_environment) as followed:
        followed.finish()
    literals = [f"--from-literal={key}={value}" for key, value in s3.environment(in_pods=True).items()]
    kubectl("create", "secret", "generic", "s3-credentials", OF, *literals)
    checking, heading, rest = rest.partition("## Upgrade")
    assert heading
    with Commands(script(checking), ROOT, shell_environment) as followed:
        assert "Succeeded=True" in followed.finish()
    # A test that has passed leaves nothing behind.
    assert kubectl("get", "--output=name", "rftjobs,rewardfunctions", OF) == ""
    with Commands(script(rest), ROOT, shell_environment) as followed:
        said = followed.finish()
    assert "has been upgraded" in said
    assert "uninstalled" in said
    assert RunFolder(runs / "helm-test").summary.exists()
    assert "rft.dev" not in kubectl("api-resources", "--output=name")
    release = kubectl.get(
        "all,configmaps,serviceaccounts,roles,clusterroles,clusterrolebindings,networkpolicies",
        OF,
        "--selector=app.kubernetes.io/instance=rft-operator",
    )
    assert release["items"] == []
