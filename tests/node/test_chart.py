"""The chart's life on a real node: an upgrade while a job trains, an uninstallation, and the way back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cluster.kubectl import Kubectl
from support.helm import CHART, INSTALL, SYSTEM, WAIT, Helm
from support.tiny import write_model
from support.tiny_jobs import SLOWLY, job, reward, store_inputs, wait_for_reason, wait_for_step

from rft_api.run_folder import RunFolder

OF = f"--namespace={SYSTEM}"
RESOURCES = "rftjobs,rewardfunctions"
CHILDREN = "jobs,deployments,pods,services,configmaps,secrets"
RELEASED = (
    "deployments,pods,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,"
    "podmonitors,prometheusrules"
)
OURS = "--selector=app.kubernetes.io/managed-by=rft-operator"


@pytest.fixture(scope="module")
def stored(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store_inputs(bucket, write_model(tmp_path_factory.mktemp("model") / "tiny"))
    return bucket


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """A chart as an earlier version may have been."""
    folder = tmp_path / "rft-operator"
    shutil.copytree(CHART, folder)
    for file, now, before in (
        (folder / "Chart.yaml", "\nversion: ", "\nversion: 0.0.1-before-"),
        (folder / "templates" / "crds" / "rftjobs.yaml", "\n    - rft\n", "\n    - rftbefore\n"),
    ):
        text = file.read_text(encoding="utf-8")
        assert now in text
        file.write_text(text.replace(now, before), encoding="utf-8")
    return folder


def short_names(kubectl: Kubectl) -> list[str]:
    return list(kubectl.get("crd", "rftjobs.rft.dev")["spec"]["names"]["shortNames"])


def names(kubectl: Kubectl, *arguments: str) -> list[str]:
    return kubectl("get", "--output=name", *arguments).split()


def test_a_job_goes_on_through_an_upgrade_and_its_results_outlive_the_chart(
    kubectl: Kubectl, cluster_helm: Helm, operator: str, chart_values: dict[str, Any], team, stored, previous: Path
):
    of = f"--namespace={team}"
    cluster_helm("uninstall", operator, OF, *WAIT)
    # The custom resource definitions were kept, and are taken over.
    before = {**chart_values, "podAnnotations": {"version": "before"}}
    cluster_helm("install", operator, str(previous), *INSTALL, values=before)
    assert short_names(kubectl) == ["rftbefore"]
    learning = {"maxSteps": 24, "epochs": 3, "evalInterval": 4}
    kubectl.apply(reward(SLOWLY), job("through", stored, learning), namespace=team)
    wait_for_step(kubectl, team, "through", 2)
    (trainer,) = names(kubectl, "pods", of, "--selector=app.kubernetes.io/component=trainer")
    cluster_helm("upgrade", operator, str(CHART), *INSTALL, values=chart_values)
    assert short_names(kubectl) == ["rft"]
    found = wait_for_reason(kubectl, team, "through", "Succeeded")
    assert found["status"]["retries"] == 0
    assert names(kubectl, "pods", of, "--selector=app.kubernetes.io/component=trainer") == [trainer]

    cluster_helm("uninstall", operator, OF, *WAIT)
    of_release = f"--selector=app.kubernetes.io/instance={operator}"
    kubectl.wait_for(RELEASED, OF, of_release, until=lambda left: not left["items"])
    assert names(kubectl, "clusterroles,clusterrolebindings", of_release) == []
    kept = kubectl.get("rftjob", "through", of)["status"]["result"]["checkpoint"]
    assert kept.startswith(f"s3://{stored.name}/runs/through")
    assert any(RunFolder(stored / "runs" / "through").best.iterdir())
    # Everything can be deleted without an operator, and what hangs on it goes, too.
    kubectl.delete(RESOURCES, of, "--all")
    kubectl.wait_for(CHILDREN, of, OURS, until=lambda left: not left["items"])
    # An operator that comes back goes on where it was.
    cluster_helm("install", operator, str(CHART), *INSTALL, values=chart_values)
    kubectl.apply(reward(), job("again", stored), namespace=team)
    wait_for_reason(kubectl, team, "again", "Succeeded")
