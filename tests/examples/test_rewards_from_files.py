"""The rewards of examples/rewards: the commands of the page, word for word, give the scores that the page states."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.pages import ROOT, blocks
from support.reward_examples import EXPECTED, answer_of_bedrock, ranking_of_judge
from support.services import Answer, Service

from rft_api.exit_codes import ExitCode

PAGE = (ROOT / "examples" / "rewards" / "README.md").read_text(encoding="utf-8")
JUDGE = "http://127.0.0.1:8000/v1"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def commands() -> dict[str, str]:
    """The one or two commands for each reward, by the name of its scores."""
    found = {}
    for block in blocks(PAGE, "sh"):
        assert len(block.splitlines()) <= 2
        (name,) = re.findall(r"--output (\w+)\.scores\.jsonl\n$", block)
        found[name] = block
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh folder with the examples."""
    shutil.copytree(ROOT / "examples" / "rewards", tmp_path / "examples" / "rewards")
    return tmp_path


@pytest.fixture
def bedrock() -> Iterator[Service]:
    """What stands for the models on Amazon Bedrock."""
    service = Service(answer_of_bedrock)
    yield service
    service.close()


@pytest.fixture
def aws(bedrock: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of somebody whose Lambda runs the code of bedrock_judge.py, unmodified, in AWS."""
    environment = {**AWS, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    handler = load(ROOT / "examples" / "rewards" / "bedrock_judge.py").lambda_handler
    service = Service(lambda asked: Answer(handler(asked.json(), None)))
    yield {**environment, "AWS_ENDPOINT_URL_LAMBDA": service.url}
    service.close()


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


def load(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, capture_output=True, text=True, env={**os.environ, **environment, "PATH": path},
    )  # fmt: skip


def scores(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["score"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_page_has_commands_for_every_reward():
    assert set(commands()) == set(EXPECTED)
    files = {path.stem for path in (ROOT / "examples" / "rewards").iterdir() if path.suffix in (".py", ".yaml")}
    assert files == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_commands_of_the_page_give_the_scores(name, folder, aws, ranking_judge):
    result = run(commands()[name], folder, aws)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = scores(folder / f"{name}.scores.jsonl")
    assert [row.get("aggregate_reward_score") for row in rows] == pytest.approx(EXPECTED[name], abs=1e-6)
    for row in rows:
        assert (row.get("error") is None) == ("aggregate_reward_score" in row)


@pytest.mark.parametrize("name", [name for name, block in commands().items() if "--from-file" in block])
def test_manifests_from_files_hold_the_code_as_it_is_and_are_valid(name, folder):
    init = commands()[name].splitlines()[0]
    assert run(init, folder, {}).returncode == 0
    result = run(f"rft validate {name}.yaml", folder, {})
    assert result.returncode == 0, result.stderr
    assert "remark" not in result.stdout
    code = (folder / "examples" / "rewards" / f"{name}.py").read_text(encoding="utf-8")
    indented = "".join(f"      {line}" if line.strip() else line for line in code.splitlines(keepends=True))
    assert indented in (folder / f"{name}.yaml").read_text(encoding="utf-8")


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
