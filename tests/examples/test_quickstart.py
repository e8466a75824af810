"""The quickstart as a user runs it, with the real model, cut down to a few steps and prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from rft_api.run import RunFolder, Summary, TrainMetrics

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
STEPS, HELD_OUT = 3, 16


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """The quickstart's manifests with fewer steps, and with the first of its held-out prompts."""
    (tmp_path / "reward.yaml").write_bytes((QUICKSTART / "reward.yaml").read_bytes())
    job = yaml.safe_load((QUICKSTART / "job.yaml").read_text(encoding="utf-8"))
    job["spec"]["model"]["uri"] = str(model)
    job["spec"]["output"]["uri"] = "out"
    job["spec"]["hyperparameters"]["maxSteps"] = STEPS
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")
    (tmp_path / "data").mkdir()
    for name, limit in (("train", None), ("validation", HELD_OUT), ("test", HELD_OUT)):
        with (QUICKSTART / "data" / f"{name}.jsonl").open(encoding="utf-8") as file:
            text = "".join(islice(file, limit))
        (tmp_path / "data" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_quickstart_trains_and_reports(folder):
    result = subprocess.run(
        [sys.executable, "-m", "rft_cli.main", "run", str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr

    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["job"], last["steps"], last["prompts"], last["heldOut"]) == ("quickstart", STEPS, HELD_OUT, "test")
    assert 0 < last["baselineReward"] < 1  # the task leaves something to learn, and the model knows some of it
    assert 0 <= last["tunedReward"] <= 1
    low, high = last["interval"]
    assert low <= last["gain"] <= high
    assert last["gain"] == pytest.approx(last["tunedReward"] - last["baselineReward"])

    run = RunFolder(folder / "out")
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
