"""Two trainer pods train together through the headless Service, with their output on a shared volume or on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.patience import wait_until
from support.tiny import write_model
from support.tiny_jobs import job, reward, store_inputs, wait_for_reason
from support.volumes import shared_volume

from rft_api.run_folder import RunFolder

STEPS = 6


@pytest.fixture(params=["volume", "S3"])
def output(request, kubectl, team, bucket, run_folder) -> tuple[str, Path]:
    """Where a job is to put its run, as its URI and as a folder of this machine."""
    name = f"pair-{team}"
    if request.param == "S3":  # each pod works on a disk of its own
        return f"s3://{bucket.name}/runs/{name}", bucket / "runs" / name
    folder = run_folder / f"shared-{team}"
    kubectl.apply(*shared_volume(folder, "runs"), namespace=team)
    return f"pvc://runs/{name}", folder / name


def test_two_pods_train_together(kubectl, team, bucket, output, tmp_path):
    store_inputs(bucket, write_model(tmp_path / "tiny"))
    uri, folder = output
    two = job("pair", bucket, {"maxSteps": STEPS}, compute={"gpusPerNode": 0, "nodes": 2}, output={"uri": uri})
    kubectl.apply(reward(), two, namespace=team)
    wait_for_reason(kubectl, team, "pair", "Succeeded")
    run = RunFolder(folder)
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert json.loads(run.config.read_text(encoding="utf-8"))["compute"]["nodes"] == 2

    def phases():
        pods = kubectl.get("pods", f"--namespace={team}", "--selector=app.kubernetes.io/component=trainer")["items"]
        return sorted(pod["status"]["phase"] for pod in pods)

    # The job has succeeded when the trainers have ended; their pods end a moment later.
    wait_until(lambda: phases() == ["Succeeded", "Succeeded"], watch=phases)
    assert (run.best / "model.safetensors").exists()
