"""What a job leaves, by the real openai package: metrics of all steps, result files, and what is not to be had."""

from __future__ import annotations

import base64
import csv
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from cluster.object_store import ObjectStore
from support.fine_tuning import ENDED, STARTED, condition, request
from support.gateway_files import connect
from support.gateway_in_cluster import ClusterGateway, Team
from support.patience import wait_until
from support.run_metrics import imitation_line, step_line, validation_line

from rft_api.object_labels import RESULTS_LABEL
from rft_gateway.fine_tuning.job import unix_time

RUNNING = condition("Succeeded", "Unknown", "Running")
SUCCEEDED = condition("Succeeded", "True", "Succeeded", "reward 0.2 -> 0.8", ENDED)
START = unix_time(STARTED) or 0


class Tenant:
    """A namespace whose jobs write to a bucket of its own, and the client of one of its keys."""

    def __init__(self, team: Team, client: openai.OpenAI, store: ObjectStore, bucket: Path):
        self.team, self.client, self.bucket = team, client, bucket
        self.variables = store.environment()

    def give_results(self, **changes: str) -> None:
        """Give gateways the right to read outputs."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in {**self.variables, **changes}.items()}
        metadata = {"name": "s3", "labels": {RESULTS_LABEL: "true"}}
        self.team.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    def create(self, **fields: Any) -> str:
        """Create a job, by reinforcement unless fields say otherwise, and return its id."""
        return str(self.client.fine_tuning.jobs.create(**(fields or request())).id)

    def write(self, job: str, text: str) -> None:
        """Write the metrics of a job, as its trainer does."""
        file = self.bucket / "jobs" / job / "metrics.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(self, job: str, step: int, *conditions: dict[str, Any], **status: Any) -> None:
        """Write the status of a job after a step."""
        progress = {"step": step, "totalSteps": 30, "reward": "0.5000", "trainedTokens": 64 * step}
        self.team.set_job_status(job, *(conditions or (RUNNING,)), startTime=STARTED, progress=progress, **status)

    def metrics(self, job: str) -> list[dict[str, Any]]:
        """The data of the events of all steps, oldest first."""
        events = self.client.fine_tuning.jobs.list_events(job, limit=4)
        return [dict(event.data) for event in events if event.type == "metrics"][::-1]


@pytest.fixture
def tenant(tuning_gateway: ClusterGateway, team: Team, s3: ObjectStore) -> Iterator[Tenant]:
    bucket = s3.make_bucket(f"runs-{secrets.token_hex(6)}")
    output, secret = f"s3://{bucket.name}/jobs", {"secretName": "s3"}
    team.enable_fine_tuning(data="['s3://data/train.jsonl']", output=output, credentials=json.dumps(secret))
    team.add_base("base", serving={"adapterSources": [output]}, credentials=secret)
    with connect(tuning_gateway, team.add_key("ci")) as client:
        yield Tenant(team, client, s3, bucket)


def test_metrics_of_all_steps_also_when_the_job_has_ended(tenant):
    tenant.give_results()
    job = tenant.create()
    assert tenant.metrics(job) == []
    lines = [step_line(step, START + 10 * step, 64 * step) for step in range(1, 31)]
    tenant.write(job, "".join(lines[:9]))
    tenant.run(job, 9)
    assert [data["step"] for data in tenant.metrics(job)] == list(range(1, 10))
    running = tenant.client.fine_tuning.jobs.retrieve(job)
    assert (running.status, running.result_files, running.trained_tokens) == ("running", [], None)
    tenant.write(job, "".join(lines[:9]) + validation_line(10) + "".join(lines[9:]))
    tenant.run(job, 30, SUCCEEDED, completionTime=ENDED)
    metrics = tenant.metrics(job)
    assert [data["step"] for data in metrics] == list(range(1, 31))
    assert (metrics[9]["train_mean_reward"], metrics[9]["full_valid_mean_reward"]) == (1.0, 0.5)
    assert (metrics[9]["trained_tokens"], metrics[9]["total_steps"]) == (640, 30)
    assert tenant.client.fine_tuning.jobs.retrieve(job).trained_tokens == 64 * 30


def test_the_result_file_is_a_table_of_all_steps(tenant, other_team, tuning_gateway):
    tenant.give_results()
    job, client = tenant.create(), tenant.client
    tenant.write(job, step_line(1, tokens=64) + validation_line(2) + step_line(2, tokens=128))
    tenant.run(job, 2, SUCCEEDED, completionTime=ENDED)
    (listed,) = client.fine_tuning.jobs.list()
    (name,) = listed.result_files
    assert client.fine_tuning.jobs.retrieve(job).result_files == [name]
    file, content = client.files.retrieve(name), client.files.content(name).read()
    assert (file.purpose, file.filename, file.bytes) == ("fine-tune-results", "step_metrics.csv", len(content))
    assert file.created_at == unix_time(ENDED)
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [(row["step"], row["train_mean_reward"], row["full_valid_mean_reward"]) for row in rows] == [
        ("1", "0.1", ""), ("2", "0.2", "0.1")
    ]  # fmt: skip
    with pytest.raises(openai.BadRequestError, match="is made of the output of job"):
        client.files.delete(name)
    other_team.enable_fine_tuning()
    with connect(tuning_gateway, other_team.add_key("ci")) as other, pytest.raises(openai.NotFoundError) as missing:
        other.files.content(name)
    assert missing.value.code == "file_not_found"


def test_a_supervised_job_has_the_loss_of_all_steps(tenant):
    tenant.give_results()
    client = tenant.client
    job = tenant.create(model="base", training_file="s3://data/train.jsonl", method={"type": "supervised"})
    lines = [imitation_line(step, START + step, 0.5 if step % 10 == 0 else None) for step in range(1, 31)]
    tenant.write(job, "".join(lines[:9]))
    tenant.run(job, 9)
    assert [data["train_loss"] for data in tenant.metrics(job)] == [2 / step for step in range(1, 10)]
    assert client.fine_tuning.jobs.retrieve(job).trained_tokens is None
    tenant.write(job, "".join(lines))
    tenant.run(job, 30, SUCCEEDED, completionTime=ENDED)
    metrics = tenant.metrics(job)
    assert [data["step"] for data in metrics if "full_valid_loss" in data] == [10, 20, 30]
    assert metrics[9] == {
        "step": 10, "total_steps": 30, "train_loss": 0.2, "train_mean_token_accuracy": 0.9, "full_valid_loss": 0.5,
        "trained_tokens": 320,
    }  # fmt: skip
    ended = client.fine_tuning.jobs.retrieve(job)
    assert (ended.status, ended.trained_tokens) == ("succeeded", 64 * 30)
    rows = list(csv.DictReader(client.files.content(ended.result_files[0]).read().decode().splitlines()))
    assert (len(rows), rows[9]) == (
        30, {"step": "10", "train_loss": "0.2", "train_accuracy": "0.9", "full_valid_loss": "0.5",
             "trained_tokens": "320"},
    )  # fmt: skip


def test_a_namespace_that_gives_no_results_has_the_last_step_and_no_file(tenant):
    job = tenant.create()
    tenant.write(job, step_line(1) + step_line(2))
    tenant.run(job, 2, SUCCEEDED, completionTime=ENDED)
    assert [data["step"] for data in tenant.metrics(job)] == [2]
    assert tenant.client.fine_tuning.jobs.retrieve(job).result_files == []
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        tenant.client.files.retrieve(f"file-results-{job}")


def test_a_store_that_refuses_is_said_and_nothing_of_its_answer(tenant):
    tenant.give_results(AWS_SECRET_ACCESS_KEY="wrong")
    job = tenant.create()
    tenant.write(job, step_line(1) + step_line(2))
    tenant.run(job, 2, SUCCEEDED, completionTime=ENDED)
    events = tenant.client.fine_tuning.jobs.list_events(job).data
    (warning,) = [event for event in events if event.message.startswith("The metrics of the steps cannot be read")]
    assert (warning.level, "Signature" in warning.message) == ("warn", False)
    assert [event.data["step"] for event in events if event.type == "metrics"] == [2]
    client = tenant.client.with_options(max_retries=0)
    (name,) = client.fine_tuning.jobs.retrieve(job).result_files
    for ask in (
        lambda: client.files.content(name),
        lambda: client.fine_tuning.jobs.list_events(job, after=events[0].id),
    ):
        with pytest.raises(openai.InternalServerError, match="It has to open this address") as refused:
            ask()
        assert (refused.value.status_code, refused.value.code) == (503, "output_unavailable")


def test_the_secret_is_that_of_the_job(tenant):
    """Another Secret of the namespace with the label opens nothing for a job that does not name it."""
    tenant.give_results()
    job = tenant.create()
    tenant.write(job, step_line(1))
    tenant.run(job, 1, SUCCEEDED, completionTime=ENDED)
    assert tenant.client.fine_tuning.jobs.retrieve(job).result_files
    tenant.team("label", "secret", "s3", f"{RESULTS_LABEL}-")
    metadata = {"name": "other", "labels": {RESULTS_LABEL: "true"}}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in tenant.variables.items()}
    tenant.team.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    assert tenant.client.fine_tuning.jobs.retrieve(job).result_files == []


def test_each_checkpoint_answers_by_its_name(tenant, tuning_gateway, pod):
    client, job = tenant.client, tenant.create()
    endpoint = tenant.team.read("rftjob", job)["spec"]["endpoint"]
    assert (endpoint["baseEndpoint"], endpoint["checkpoints"]) == ("base", True)
    checkpoints = [
        {"step": step, "validationReward": f"0.{step}00", "uri": f"s3://runs/jobs/x/checkpoints/step-{step}"}
        for step in (30, 20, 10)
    ]
    tenant.run(job, 30, SUCCEEDED, completionTime=ENDED, checkpoints=checkpoints)
    kept = list(client.fine_tuning.jobs.checkpoints.list(job))
    names = [each.fine_tuned_model_checkpoint for each in kept]
    tuned = client.fine_tuning.jobs.retrieve(job).fine_tuned_model
    assert names == [tuned, f"{tuned}-step-20", f"{tuned}-step-10"]
    assert [each.step_number for each in kept] == [30, 20, 10]
    # As the operator makes them.
    for name in names:
        tenant.team.add_adapter(name, "base")
        pod.models.append(name)
    tenant.team.set_servers("base", pod.port)
    messages = [{"role": "user", "content": "one"}]

    def status(name: str) -> int:
        question = {"model": name, "messages": messages, "max_tokens": 1}
        return tuning_gateway.post("/v1/chat/completions", question, client.api_key).status_code

    wait_until(lambda: [status(name) for name in names] == [200] * 3, lambda: tuning_gateway.log)
    assert set(names) <= {model.id for model in client.models.list()}
    for name in names:
        assert client.chat.completions.create(model=name, messages=messages, max_tokens=1).model == name
