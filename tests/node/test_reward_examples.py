"""The rewards of examples/rewards in pods: the manifests of the page's commands score as they do on a laptop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.kubectl import Kubectl, Manifest
from cluster.network import HOST
from support.package_index import PackageIndex
from support.reward_examples import EXPECTED, FOLDER, JUDGE, aws_services, commands, ranking_of_judge, run
from support.reward_pods import score_in_pods, wait_for_ready
from support.services import Service

from rft_api.groups import group_id
from rft_cli.score import read_lines


@pytest.fixture
def judge(team: str) -> Iterator[Service]:
    """A model that ranks, for pods."""
    service = Service(ranking_of_judge, host=HOST)
    yield service
    service.close()


@pytest.fixture
def ports(kubectl: Kubectl, team: str, judge: Service) -> Iterator[list[int]]:
    """The ports of this machine where pods find the services that rewards ask. The Secret has their addresses."""
    with aws_services(HOST) as (environment, services):
        literals = [f"--from-literal={name}={value}" for name, value in environment.items()]
        kubectl("create", "secret", "generic", "aws", f"--namespace={team}", *literals)
        yield [service.port for service in (*services, judge)]


def manifest(name: str, folder: Path) -> Manifest:
    """The manifest that the page's commands score with."""
    init = [line for line in commands()[name].splitlines() if "--from-file" in line]
    for line in init:
        result = run(line, folder, {})
        assert result.returncode == 0, result.stderr
    file = folder / f"{name}.yaml" if init else folder / "examples" / "rewards" / f"{name}.yaml"
    document: Manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
    return document


def samples(name: str) -> list[dict[str, Any]]:
    """The samples of the page's completions, as the trainer sends them."""
    lines = read_lines(FOLDER / f"{name.removesuffix('_without_lambda')}.jsonl")
    groups = (group_id(line.sample["messages"][:-1], line.sample["reference_answer"]) for line in lines)
    return [{**line.sample, "group": group} for line, group in zip(lines, groups, strict=True)]


def test_the_rewards_score_in_pods_as_on_a_laptop(
    kubectl: Kubectl, team: str, judge: Service, ports: list[int], package_index: PackageIndex, tmp_path: Path
):
    shutil.copytree(FOLDER, tmp_path / "examples" / "rewards")
    functions = {name: manifest(name, tmp_path) for name in EXPECTED}
    for function in functions.values():
        if "egress" in function["spec"] or "judge" in function["spec"]:
            function["spec"]["egress"] = [{"cidr": f"{HOST}/32", "port": port} for port in ports]
    model = functions["relative_judge"]["spec"]["judge"]["model"]
    assert model["url"] == JUDGE
    model["url"] = f"{judge.url}/v1"
    kubectl.apply(*functions.values(), namespace=team)
    scores = {}
    for name, function in functions.items():
        wait_for_ready(kubectl, team, function["metadata"]["name"])
        rows = score_in_pods(kubectl, team, function["metadata"]["name"], samples(name))
        scores[name] = [row["aggregate_reward_score"] for row in rows]
        kubectl.delete("rewardfunction", function["metadata"]["name"], f"--namespace={team}")
    assert scores == {name: pytest.approx(expected, abs=1e-6) for name, expected in EXPECTED.items()}
