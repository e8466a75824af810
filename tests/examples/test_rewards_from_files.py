"""The rewards of examples/rewards: the commands of the page, word for word, give the scores that the page states."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import ROOT
from support.reward_examples import EXPECTED, FOLDER, JUDGE, aws_services, commands, ranking_of_judge, run
from support.services import Service

from rft_api.exit_codes import ExitCode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh folder with the examples."""
    shutil.copytree(FOLDER, tmp_path / "examples" / "rewards")
    return tmp_path


@pytest.fixture
def aws() -> Iterator[dict[str, str]]:
    """The environment of somebody whose Lambda runs the code of bedrock_judge.py, unmodified, in AWS."""
    with aws_services() as (environment, _):
        yield environment


@pytest.fixture
def ranking_judge(folder: Path) -> Iterator[Service]:
    """A model that ranks, at the address of relative_judge.yaml."""
    service = Service(ranking_of_judge)
    manifest = folder / "examples" / "rewards" / "relative_judge.yaml"
    text = manifest.read_text(encoding="utf-8")
    assert JUDGE in text
    manifest.write_text(text.replace(JUDGE, f"{service.url}/v1"), encoding="utf-8")
    yield service
    service.close()


def scores(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["score"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_page_has_commands_for_every_reward():
    assert set(commands()) == set(EXPECTED)
    assert {len(block.splitlines()) for block in commands().values()} == {1, 2}
    assert {path.stem for path in FOLDER.iterdir() if path.suffix in (".py", ".yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_commands_of_the_page_give_the_scores_with_the_code_as_it_is(name, folder, aws, ranking_judge):
    result = run(commands()[name], folder, aws)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = scores(folder / f"{name}.scores.jsonl")
    assert [row.get("aggregate_reward_score") for row in rows] == pytest.approx(EXPECTED[name], abs=1e-6)
    for row in rows:
        assert (row.get("error") is None) == ("aggregate_reward_score" in row)
    if "--from-file" in commands()[name]:
        code = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        indented = "".join(f"      {line}" if line.strip() else line for line in code.splitlines(keepends=True))
        assert indented in (folder / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_manifests_of_the_folder_are_valid():
    result = run("rft validate examples/rewards", ROOT, {})
    assert result.returncode == 0, result.stderr
    assert "4 resources are valid" in result.stdout


def test_code_that_needs_the_network_is_told_what_to_use_instead(folder):
    made = run("rft rewards init judge.yaml --from-file examples/rewards/bedrock_judge.py", folder, {})
    checked = run("rft validate judge.yaml", folder, {})
    scored = run("rft score judge.yaml examples/rewards/bedrock_judge.jsonl", folder, {})
    assert (made.returncode, checked.returncode, scored.returncode) == (0, 0, ExitCode.REWARD_FAILING)
    for result in (made, checked, scored):
        assert "imports boto3 to connect to other machines, but reward code has no network" in result.stdout
        assert all(kind in result.stdout for kind in ("`lambda`", "`http`", "`judge`"))
    assert "bedrock_judge.py:7: imports boto3" in made.stdout
    line = next(
        n for n, text in enumerate((folder / "judge.yaml").read_text().splitlines(), 1) if "import boto3" in text
    )
    assert f"judge.yaml:{line}: spec.python.source: imports boto3" in checked.stdout
