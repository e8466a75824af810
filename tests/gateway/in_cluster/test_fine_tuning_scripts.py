"""The scripts of examples/fine-tuning-api run as they are, as programs, before a real gateway and API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fine_tuning import ENDED, LAMBDA, STARTED, condition
from support.gateway_in_cluster import ClusterGateway, Team
from support.pages import ROOT
from support.patience import PATIENCE_SECONDS, wait_until
from support.reward_server import RewardServer, sample

FOLDER = ROOT / "examples" / "fine-tuning-api"
ARN = LAMBDA["lambda"]["function"]
CHECKPOINTS = [
    {"step": 20, "validationReward": "0.8000", "uri": "s3://runs/jobs/x/checkpoints/step-20"},
    {"step": 10, "validationReward": "0.5000", "uri": "s3://runs/jobs/x/checkpoints/step-10"},
]
RESULT = {
    "baselineReward": "0.2000", "bestReward": "0.8000", "gain": "+0.6000", "interval": "+0.5000 to +0.7000",
    "checkpoint": "s3://runs/jobs/x/best",
}  # fmt: skip


@pytest.fixture
def token(tuning_gateway: ClusterGateway, team: Team) -> str:
    """A key of a namespace in which jobs can be created."""
    team.enable_fine_tuning(graders="{credentials: {secretName: aws}}")
    token = team.add_key("ci")
    tuning_gateway.wait_for_status(token, 200)
    return token


class Script:
    """A script that runs, with what it prints."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path):
        self._process = process
        self._output = output

    @property
    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        """Waits until it has printed a text; fails if it ends before."""

        def has_printed() -> bool:
            has_ended = self._process.poll() is not None
            assert text in self.text or not has_ended, self.text
            return text in self.text

        wait_until(has_printed, lambda: self.text)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_SECONDS)


@contextmanager
def script(folder: Path, gateway: ClusterGateway, token: str, *command: str) -> Iterator[Script]:
    """Runs a script, which knows the gateway by OpenAI's variables alone."""
    output = folder / "output"
    environment = {**os.environ, "OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": token}
    name, *arguments = command
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [sys.executable, str(FOLDER / name), *arguments],
            stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=folder,
        ) as process,
    ):  # fmt: skip
        try:
            yield Script(process, output)
        finally:
            process.kill()


def the_job(team: Team) -> dict[str, Any]:
    (job,) = team.read("rftjobs")["items"]
    return job


def train(team: Team, running: Script, job: dict[str, Any]) -> None:
    """Plays the operator up to the middle of the training."""
    running.wait_for("status: validating_files")
    progress = {"step": 4, "totalSteps": 20, "reward": "0.2500"}
    status = {"startTime": STARTED, "progress": progress}
    team.set_job_status(job["metadata"]["name"], condition("Succeeded", "Unknown", "Running"), **status)
    running.wait_for("status: running")


def succeed(team: Team, gateway: ClusterGateway, pod, job: dict[str, Any], token: str) -> str:
    """Plays the operator to the end of the training; returns the name of the tuned model, which answers."""
    tuned = job["spec"]["endpoint"]["name"]
    team.add_adapter(tuned, "base")
    team.set_servers("base", pod.port)
    pod.models.append(tuned)
    question = {"model": tuned, "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}
    wait_until(lambda: gateway.post("/v1/chat/completions", question, token).status_code == 200, lambda: gateway.log)
    team.set_job_status(
        job["metadata"]["name"], condition("Succeeded", "True", "Succeeded", "reward 0.2 -> 0.8", ENDED),
        result=RESULT, checkpoints=CHECKPOINTS, completionTime=ENDED,
    )  # fmt: skip
    return tuned


def stored_rows(bucket: Path, sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the sources of a job have, where the gateway has stored them."""
    (uri,) = (source["uri"] for source in sources)
    content = (bucket.parent / uri.removeprefix("s3://")).read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def test_a_notebook_for_openai(tmp_path, tuning_gateway, team, token, bucket, pod):
    with script(tmp_path, tuning_gateway, token, "openai_notebook.py", "base") as running:
        running.wait_for("job: ")
        job = the_job(team)
        assert job["spec"]["hyperparameters"]["epochs"] == 2
        rows = [stored_rows(bucket, job["spec"]["data"][part]) for part in ("train", "validation")]
        assert [len(part) for part in rows] == [60, 12]
        train(team, running, job)
        tuned = succeed(team, tuning_gateway, pod, job, token)
        assert running.wait() == 0, running.text
    assert tuned.startswith("base-prices-")
    *_, first, second, answer = running.text.splitlines()
    assert first == f"checkpoint: step 20, reward 0.8, {tuned}"
    assert second == f"checkpoint: step 10, reward 0.5, {tuned}-step-10"
    assert answer.startswith(f"{tuned}: w0 w1")
    assert "event: info: Step 4/20: train mean reward=0.2500" in running.text
    assert "event: info: The job has successfully completed. reward 0.2 -> 0.8" in running.text
    # the grader that the job has got knows the answers of the rows that it has got
    row = rows[0][0]
    function = team.read("rewardfunction", job["metadata"]["name"])
    with RewardServer(tmp_path / "reward", function["spec"]) as server:
        texts = (row["reference_answer"], "1.00", "none")
        scores = server.score([sample(text, text, row["reference_answer"]) for text in texts])
    assert [score["aggregate_reward_score"] for score in scores] == [1.0, 0.2, 0.0]


def test_a_script_for_bedrock(tmp_path, tuning_gateway, team, token, bucket, pod):
    with script(tmp_path, tuning_gateway, token, "bedrock_lambda.py", "base", ARN) as running:
        running.wait_for("job: ")
        job = the_job(team)
        name = job["metadata"]["name"]
        function = team.read("rewardfunction", name)["spec"]
        assert function["lambda"]["functionArn"] == ARN
        assert function["credentials"] == {"secretName": "aws"}
        (source,) = job["spec"]["data"]["train"]
        assert source["reward"] == name
        assert stored_rows(bucket, [source])[0]["reference_answer"] == {"team": "billing"}
        train(team, running, job)
        tuned = succeed(team, tuning_gateway, pod, job, token)
        assert running.wait() == 0, running.text
    assert f"newest jobs: ['{name}']" in running.text
    *_, first, second, answer = running.text.splitlines()
    assert (first, second) == (f"checkpoint: ftckpt-{name}-20 20", f"checkpoint: ftckpt-{name}-10 10")
    assert answer.startswith(f"answer: {tuned} w0 w1")


@pytest.mark.parametrize("command", [("openai_notebook.py", "base"), ("bedrock_lambda.py", "base", ARN)])
def test_a_job_that_fails_ends_the_script_with_its_error(tmp_path, tuning_gateway, team, token, command):
    with script(tmp_path, tuning_gateway, token, *command) as running:
        running.wait_for("status: validating_files")
        failed = condition("Succeeded", "False", "RewardFailing", "the grader gives every completion 0", ENDED)
        team.set_job_status(the_job(team)["metadata"]["name"], failed, completionTime=ENDED)
        assert running.wait() == 1
    assert "reward_failing" in running.text.splitlines()[-1]
    assert "the grader gives every completion 0" in running.text.splitlines()[-1]
