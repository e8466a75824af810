"""`rft submit` on the real node, with everything local: pods train what it uploads, and the user comes and goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster.kubectl import Kubectl
from cluster.object_store import ObjectStore
from support import tiny_jobs
from support.patience import wait_until
from support.rft_program import RftProgram
from support.tiny import digits_rows, write_jsonl, write_model
from support.tiny_jobs import SLOWLY, wait_for_reason, wait_for_step
from support.trainer import hyperparameters, job_spec

from rft_api.run_folder import RunFolder
from rft_api.summary import Summary

STEPS = 3
MANY_STEPS = 1000
"""Of a job that is stopped long before its end."""
BESIDE = {"marks.py": "SHORT = 0.5\n"}
"""The file beside the code of the reward, without which it cannot score."""
CODE = "import marks\n" + SLOWLY.replace("0.5", "marks.SHORT")


@pytest.fixture
def environment(shell_environment: dict[str, str], s3: ObjectStore, tmp_path: Path) -> dict[str, str]:
    """A user's: with a kubeconfig, and with credentials for the bucket."""
    return {**shell_environment, **s3.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's: manifests of two jobs and their reward, with the model, the data and the code that they name."""
    folder = tmp_path / "project"
    write_model(folder / "model")
    rows = digits_rows(72, 4, seed=1)
    for split, part in (("train", rows[:40]), ("validation", rows[40:48]), ("test", rows[48:])):
        write_jsonl(folder / "data" / f"{split}.jsonl", part)
    (folder / "reward.py").write_text(CODE, encoding="utf-8")
    reward = tiny_jobs.reward()
    reward["spec"]["python"] = {"sourceFrom": {"file": "reward.py"}, "files": BESIDE}
    jobs = {"short": hyperparameters(maxSteps=STEPS), "long": hyperparameters(maxSteps=MANY_STEPS, epochs=100)}
    documents = {
        name: {
            "apiVersion": tiny_jobs.API_VERSION,
            "kind": "RFTJob",
            "metadata": {"name": name},
            "spec": {
                **job_spec(Path("model"), Path("data"), Path("runs"), hyperparameters=learning),
                "credentials": {"secretName": "s3-credentials"},
            },
        }
        for name, learning in jobs.items()
    }
    for name, document in {**documents, "reward": reward}.items():
        (folder / f"{name}.yaml").write_text(json.dumps(document, indent=2), encoding="utf-8")  # JSON is YAML
    return folder


def test_what_is_local_trains_in_pods_and_the_user_comes_and_goes(
    kubectl: Kubectl, team: str, bucket: Path, folder: Path, environment: dict[str, str]
):
    def start(*arguments: str) -> RftProgram:
        return RftProgram(*arguments, folder=folder, environment=environment)

    def run(*arguments: str) -> str:
        with start(*arguments) as program:
            assert program.finish() == 0, program.output + program.errors
            return program.output

    def submission(name: str) -> list[str]:
        return ["submit", f"{name}.yaml", "reward.yaml", "--output", f"s3://{bucket.name}/submitted/{name}", "-n", team]

    with start(*submission("short")) as short:
        short.wait_for("RFTJob short: created")
        assert "Uploading " in short.output
        uploaded = uploads(bucket)
        with start(*submission("long")) as long:
            wait_for_step(kubectl, team, "long", 1)
            long.wait_for("] step ")
            long.interrupt()
            assert long.finish() == 75, long.output + long.errors
            assert "nothing is uploaded" in long.output
            assert "RewardFunction digits: unchanged" in long.output
            errors = long.errors
        assert f"RFTJob long goes on in namespace {team} of context test.\n" in errors
        going = kubectl.get("rftjob", "long", f"--namespace={team}")
        wait_for_step(kubectl, team, "long", going["status"]["progress"]["step"] + 1)
        for command, said in (("jobs", "Running"), ("logs long", "Training"), ("cancel long", "is suspended")):
            assert f"rft {command} -n {team}" in errors
            assert said in run(*command.split(), "-n", team)
        wait_for_reason(kubectl, team, "short", "Succeeded")
        assert short.finish() == 0, short.errors
        first = short.output
    output = bucket / "submitted"
    summary = Summary.model_validate_json(RunFolder(output / "short").summary.read_bytes())
    assert summary.steps == STEPS
    result = first.splitlines()[-1]
    assert json.loads(result)["tunedReward"] == summary.tuned.reward
    again = run(*submission("short"))
    assert "nothing is uploaded" in again
    assert "RFTJob short: unchanged" in again
    assert again.splitlines()[-1] == result
    for said in (first, again, run("report", f"s3://{bucket.name}/submitted/short")):
        assert f"{summary.prompts} held-out prompts" in said

    wait_for_reason(kubectl, team, "long", "Suspended")
    before = metrics(output / "long")
    assert "RFTJob long: changed" in run(*submission("long"), "--detach")
    wait_until(lambda: len(metrics(output / "long")) > len(before), explain=lambda: "no step after the resumption")
    assert metrics(output / "long")[: len(before)] == before, "it has not begun anew"
    assert uploads(bucket) == uploaded


def uploads(bucket: Path) -> dict[Path, int]:
    """The uploaded files, and when they were written."""
    files = (bucket / "submitted" / "rft-uploads").rglob("*.*")
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def metrics(output: Path) -> list[str]:
    """The lines of a run's metrics, in the bucket."""
    return RunFolder(output).metrics.read_text(encoding="utf-8").splitlines()
