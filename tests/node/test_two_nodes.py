"""Two trainer pods train together through the headless Service, with their output on a shared volume or on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.patience import wait_until
from support.tiny import write_model
from support.tiny_jobs import SLOWLY, job, reward, store_inputs, wait_for_reason, wait_for_step
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


KILL_SERVER = """
import contextlib, os, pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):  # it has ended meanwhile
        # The server is started as a module; this program and the keeper only have the name among their arguments.
        if (process / "cmdline").read_bytes().split(bytes(1))[1:3] == [b"-m", b"vllm.entrypoints.openai.api_server"]:
            os.kill(int(process.name), 9)
            print("killed")
"""


def test_each_pod_samples_from_its_own_server_which_may_be_away(kubectl, team, bucket, tmp_path):
    """The second pod's server is killed, and takes about a minute to start again; the first one's goes on."""
    store_inputs(bucket, write_model(tmp_path / "tiny"))
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    write_model(bucket / "models" / "wide-pair", hidden=128, tied=False)
    two = job("two-servers", bucket, {"maxSteps": STEPS, "evalInterval": STEPS, "learningRate": "2e-2"})
    two["spec"]["model"]["uri"] = f"s3://{bucket.name}/models/wide-pair"
    two["spec"]["tuning"] = {"type": "LoRA"}
    two["spec"]["compute"] = {"gpusPerNode": 0, "nodes": 2, "rollouts": {"engine": "vLLM"}}
    kubectl.apply(reward(SLOWLY), two, namespace=team)
    wait_for_step(kubectl, team, "two-servers", 1)
    pods = kubectl.get("pods", f"--namespace={team}", "--selector=batch.kubernetes.io/job-completion-index=1")
    (pod,) = [each["metadata"]["name"] for each in pods["items"]]
    assert "killed" in kubectl("exec", pod, f"--namespace={team}", "--", "python", "-c", KILL_SERVER)
    finished = wait_for_reason(kubectl, team, "two-servers", "Succeeded")
    assert finished["status"].get("retries", 0) == 0
    run = RunFolder(bucket / "runs" / "two-servers")
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    # Each version was loaded by both servers: no completion came from another one.
    assert all(row["logprobDifferenceMax"] < 1e-4 for row in steps)
    assert sum(row["gradientNorm"] for row in steps) > 0
