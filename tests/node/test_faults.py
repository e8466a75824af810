"""What happens to pods on a real node, and the condition that each ends in."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cluster.images import build_image
from cluster.kubectl import Kubectl
from support.tiny import write_model
from support.tiny_jobs import SLOWLY, condition, job, reward, store_inputs, wait_for_reason, wait_for_step
from support.trainer import curve

from rft_api.exit_codes import ExitCode
from rft_api.run_folder import RunFolder

TRAINERS = "app.kubernetes.io/component=trainer"
KILL_OTHERS = """
import contextlib, os
for number in filter(str.isdigit, os.listdir("/proc")):
    if int(number) not in {1, os.getpid()}:
        with contextlib.suppress(ProcessLookupError):  # it has ended with another one
            os.kill(int(number), 9)
"""
ENDING_DOCKERFILE = """
ARG BASE
FROM ${BASE}
COPY python /usr/local/bin/python
USER 65532
"""
# Stands for the trainer: leaves a message and ends as it is told.
ENDING_SCRIPT = """#!/bin/sh
printf '%s' "$MESSAGE" > /dev/termination-log
exit "$CODE"
"""


@pytest.fixture(scope="module")
def stored(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store_inputs(bucket, write_model(tmp_path_factory.mktemp("model") / "tiny"))
    return bucket


@pytest.fixture(scope="module")
def ending_image(node, run_folder, report, tmp_path_factory) -> str:
    context = tmp_path_factory.mktemp("ending")
    (context / "Dockerfile").write_text(ENDING_DOCKERFILE, encoding="utf-8")
    (context / "python").write_text(ENDING_SCRIPT, encoding="utf-8")
    (context / "python").chmod(0o755)
    name = "localhost/tests/ending:1"
    node.load_image(build_image(name, context, run_folder / "images", report))
    return name


def running_pod(kubectl: Kubectl, team: str, name: str, attempt: int) -> str:
    """The trainer pod of an attempt, once it runs."""
    selector = f"--selector={TRAINERS},rft.dev/owner={name},rft.dev/attempt={attempt}"
    running = ["pods", f"--namespace={team}", selector, "--field-selector=status.phase=Running"]
    found = kubectl.wait_for(*running, until=lambda pods: bool(pods["items"]))
    return str(found["items"][0]["metadata"]["name"])


def test_a_run_survives_its_pods_its_reward_server_and_its_store(kubectl, team, stored, s3):
    of = f"--namespace={team}"
    learning = {"maxSteps": 48, "epochs": 5, "evalInterval": 4}
    kubectl.apply(reward(SLOWLY), *(job(name, stored, learning) for name in ("disturbed", "calm")), namespace=team)

    def wait_for_steps(more: int) -> None:
        """Waits until the run has got further than it has ever been."""
        progress = kubectl.get("rftjob", "disturbed", of)["status"].get("progress", {})
        wait_for_step(kubectl, team, "disturbed", progress.get("step", 0) + more)

    wait_for_step(kubectl, team, "disturbed", 5)
    kubectl.delete("pod", running_pod(kubectl, team, "disturbed", 0), of)
    pod = running_pod(kubectl, team, "disturbed", 1)
    wait_for_steps(2)
    kubectl.run("exec", pod, of, "--", "python", "-c", KILL_OTHERS)  # may itself be ended with its container
    running_pod(kubectl, team, "disturbed", 2)
    kubectl.delete("pod", of, "--selector=app.kubernetes.io/component=reward-server")
    wait_for_steps(2)
    s3.stop()
    time.sleep(60)
    s3.start()

    found = wait_for_reason(kubectl, team, "disturbed", "Succeeded")
    assert found["status"]["retries"] == 1, "the deleted pod does not count"
    wait_for_reason(kubectl, team, "calm", "Succeeded")
    disturbed, calm = (RunFolder(stored / "runs" / name) for name in ("disturbed", "calm"))
    assert curve(lines(disturbed)) == curve(lines(calm))


def lines(folder: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]


def latest_attempt(jobs, name):
    """The number of the newest attempt of an RFTJob; only the newest ones are kept."""
    names = [job["metadata"]["name"] for job in jobs["items"]]
    return max((int(job.rpartition("-")[2]) for job in names if job.startswith(f"{name}-trainer-")), default=-1)


def test_every_exit_code_ends_in_its_condition(kubectl, team, stored, ending_image):
    codes = {code.reason.lower(): code for code in ExitCode if code != ExitCode.SUCCEEDED}
    kubectl.apply(reward(), namespace=team)
    kubectl.apply(
        *(
            job(
                name, stored, limits={"retries": 0},
                compute={
                    "gpusPerNode": 0,
                    "pod": {
                        "image": ending_image,
                        "env": [
                            {"name": "CODE", "value": str(int(code))},
                            {"name": "MESSAGE", "value": f"{code.reason}: what went wrong"},
                        ],
                    },
                },
            )
            for name, code in codes.items()
        ),
        namespace=team,
    )  # fmt: skip
    for name, code in codes.items():
        if code == ExitCode.INTERRUPTED:  # somebody else's doing: it is started again, and does not count
            kubectl.wait_for("jobs", f"--namespace={team}", until=lambda jobs: latest_attempt(jobs, "interrupted") > 0)
            continue
        reason = code.reason if code.permanent else "RetriesExhausted"
        found = condition(wait_for_reason(kubectl, team, name, reason))
        assert found["status"] == "False"
        assert "what went wrong" in found["message"]
        if not code.permanent:
            assert code.reason in found["message"]


def test_memory_that_does_not_suffice_is_named(kubectl, team, stored):
    pod = {"resources": {"limits": {"memory": "160Mi"}}}
    small = job("small", stored, compute={"gpusPerNode": 0, "pod": pod}, limits={"retries": 1})
    kubectl.apply(reward(), small, namespace=team)
    found = wait_for_reason(kubectl, team, "small", "RetriesExhausted")
    assert "memory" in condition(found)["message"]


def test_an_image_that_does_not_exist_is_named_and_can_be_corrected(kubectl, team, stored):
    wrong = job("wrong", stored, compute={"gpusPerNode": 0, "pod": {"image": "localhost/tests/missing:1"}})
    kubectl.apply(reward(), wrong, namespace=team)
    found = wait_for_reason(kubectl, team, "wrong", "ImagePullFailed")
    assert "localhost/tests/missing:1" in condition(found)["message"]
    kubectl.apply(job("wrong", stored), namespace=team)
    wait_for_reason(kubectl, team, "wrong", "Succeeded")


@pytest.mark.parametrize(("tokens", "fits", "reason"), [(100_000, "False", "DoesNotFit"), (8, "True", "Unschedulable")])
def test_a_pod_plans_the_memory_before_a_job_gets_gpus(kubectl, team, stored, tokens, fits, reason):
    compute = {"gpusPerNode": 1, "gpuMemory": "1Gi"}
    kubectl.apply(reward(), job("planned", stored, {"maxCompletionTokens": tokens}, compute=compute), namespace=team)
    planned = wait_for_reason(kubectl, team, "planned", reason)
    assert condition(planned, "Fits")["status"] == fits
    assert ("hyperparameters.maxCompletionTokens" in condition(planned, "Fits")["message"]) == (fits == "False")
    pods = kubectl.get("pods", f"--namespace={team}", f"--selector={TRAINERS},rft.dev/attempt")["items"]
    # The pod that plans belongs to no attempt. The trainer's has never existed, or waits for a GPU.
    assert [pod["status"]["phase"] for pod in pods] == ([] if fits == "False" else ["Pending"])
