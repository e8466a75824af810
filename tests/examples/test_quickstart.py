"""The first job on a laptop: the commands of its page, word for word, with the real model, in a fresh folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet
import pytest
from support.pages import ROOT, page, script

from rft_api.metrics import TrainMetrics
from rft_api.run_folder import RunFolder
from rft_api.summary import Summary

INSTALL = "make install"
"""The page's first command; `make test` has run it before this test."""
STEPS, HELD_OUT = 3, 16
"""As the page has them for a short first try."""


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """A fresh folder that has of the repository what the page's commands name."""
    for name in (".venv", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".cache" / "models").mkdir(parents=True)
    (tmp_path / ".cache" / "models" / model.name).symlink_to(model)
    return tmp_path


def test_the_first_job_on_a_laptop_trains_and_reports(folder):
    result = subprocess.run(
        ["bash", "-c", script(page("first-job-on-a-laptop.md"), INSTALL)],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr

    # What `rft run` said last.
    (last,) = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"job"')]
    assert (last["job"], last["steps"], last["prompts"], last["heldOut"]) == ("first-job", STEPS, HELD_OUT, "test")
    assert 0 < last["baselineReward"] < 1  # the task leaves something to learn, and the model knows some of it
    assert 0 <= last["tunedReward"] <= 1
    low, high = last["interval"]
    assert low <= last["gain"] <= high
    assert last["gain"] == pytest.approx(last["tunedReward"] - last["baselineReward"])

    run = RunFolder(folder / "first-job" / "out")
    assert last["output"] == str(run.path.resolve())
    summary = Summary.model_validate_json(run.summary.read_bytes())
    assert summary.rewards_failed == 0
    assert summary.data.too_long == {}
    assert summary.base.components.keys() == {"value", "unit", "valid_json"}
    assert summary.preflight is not None
    assert summary.preflight.verdict == "Fine"

    assert run.curves.with_suffix(".svg").read_text(encoding="utf-8").startswith("<?xml")
    assert run.curves.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (run.best / "adapter_model.safetensors").stat().st_size > 0
    assert (run.best / "adapter_config.json").is_file()

    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    steps = [TrainMetrics.model_validate(line) for line in lines if line["split"] == "train"]
    assert [step.step for step in steps] == [1, 2, 3]
    assert any(step.gradient_norm for step in steps)
    for step in steps:
        rollouts = pyarrow.parquet.read_table(run.rollout(step.step)).to_pylist()
        assert len(rollouts) == 4 * 8
        assert step.reward == pytest.approx(sum(row["reward"] for row in rollouts) / len(rollouts))
    for stage in ("base", "tuned"):
        assert pyarrow.parquet.read_table(run.evaluation(stage)).num_rows == HELD_OUT
