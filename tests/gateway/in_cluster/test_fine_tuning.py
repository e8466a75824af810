"""OpenAI's fine-tuning API on a real API server, asked by the real openai package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJobEvent
from support.fine_tuning import (
    ENDED,
    LAMBDA,
    SCORE_MODEL,
    STARTED,
    STRING_CHECK,
    condition,
    request,
    rft_job,
)
from support.gateway_files import connect
from support.gateway_in_cluster import ClusterGateway, Team
from support.patience import PATIENCE_SECONDS, wait_until

from rft_api.object_labels import FINE_TUNING_CANCELLED, FINE_TUNING_DIGESTS

DATA = "['s3://data/train.jsonl', 's3://data/valid/']"
REWARD = {
    "apiVersion": "rft.dev/v1alpha1", "kind": "RewardFunction", "metadata": {"name": "exact"},
    "spec": {"openai": {"grader": STRING_CHECK}},
}  # fmt: skip


@pytest.fixture
def client(tuning_gateway: ClusterGateway, team: Team) -> Iterator[openai.OpenAI]:
    """A client with a key of a namespace that has a base endpoint and a ConfigMap for jobs."""
    team.enable_fine_tuning(data=DATA)
    with connect(tuning_gateway, team.add_key("ci")) as client:
        yield client


def create(client: openai.OpenAI, *arguments: Any, **fields: Any) -> Any:
    return client.fine_tuning.jobs.create(**request(*arguments, **fields))


def test_a_job_from_its_request_to_its_model(client, team):
    made = create(client, suffix="Prices", metadata={"run": "7"}, validation_file="s3://data/valid/a.jsonl", seed=3)
    assert (made.status, made.model, made.seed, made.metadata) == ("validating_files", "base", 3, {"run": "7"})
    job, function = team.read("rftjob", made.id), team.read("rewardfunction", made.id)
    assert job["spec"]["data"]["train"][0]["reward"] == made.id
    assert function["metadata"]["ownerReferences"] == [
        {"apiVersion": "rft.dev/v1alpha1", "kind": "RFTJob", "name": made.id, "uid": job["metadata"]["uid"]}
    ]
    team.set_job_status(made.id, condition("Succeeded", "Unknown", "Running"), startTime=STARTED)
    assert client.fine_tuning.jobs.retrieve(made.id).status == "running"
    result = {
        "baselineReward": "0.2000", "bestReward": "0.8000", "gain": "+0.6000", "interval": "+0.5000 to +0.7000",
        "checkpoint": "s3://runs/jobs/x/best",
    }  # fmt: skip
    checkpoints = [{"step": 20, "validationReward": "0.8000", "uri": "s3://runs/jobs/x/checkpoints/step-20"}]
    team.set_job_status(
        made.id, condition("Succeeded", "True", "Succeeded", "reward 0.2 -> 0.8", ENDED), result=result,
        checkpoints=checkpoints, completionTime=ENDED,
    )  # fmt: skip
    ended = client.fine_tuning.jobs.retrieve(made.id)
    assert (ended.status, ended.fine_tuned_model) == ("succeeded", job["spec"]["endpoint"]["name"])
    assert ended.fine_tuned_model == f"base-prices-{made.id[-8:]}"
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(made.id)
    assert (checkpoint.step_number, checkpoint.fine_tuned_model_checkpoint) == (20, ended.fine_tuned_model)
    messages = [event.message for event in client.fine_tuning.jobs.list_events(made.id, limit=1)]
    assert messages[-1] == f"Created fine-tuning job: {made.id}"
    assert "The job has successfully completed. reward 0.2 -> 0.8" in messages
    with pytest.raises(openai.BadRequestError, match="has already ended: it is succeeded"):
        client.fine_tuning.jobs.cancel(made.id)


def test_a_job_trains_on_files_that_were_uploaded(tuning_gateway, client, team, other_team, bucket):
    content = b'{"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}\n'
    other_team.enable_fine_tuning()
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    made = create(client, training_file=file.id, validation_file=file.id)
    assert (made.training_file, made.validation_file) == (file.id, file.id)
    job = team.read("rftjob", made.id)
    (uri,) = {source["uri"] for split in ("train", "validation") for source in job["spec"]["data"][split]}
    assert (bucket.parent / uri.removeprefix("s3://")).read_bytes() == content
    digests = json.loads(job["metadata"]["annotations"][FINE_TUNING_DIGESTS])
    assert digests == {file.id: hashlib.sha256(content).hexdigest()}
    with connect(tuning_gateway, other_team.add_key("ci")) as other:
        refuse_file(other, file.id)
    assert not other_team.read("rftjobs")["items"]
    client.files.delete(file.id)
    refuse_file(client, file.id)
    refuse_file(client, uri)


def test_a_supervised_job_from_its_file_to_its_model(client, team):
    content = b"".join(
        json.dumps(
            {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}]}
        ).encode()
        + b"\n"
        for n in range(20)
    )
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    settings = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 2}
    made = client.fine_tuning.jobs.create(
        model="base", training_file=file.id, validation_file=file.id, suffix="Tone", seed=4, metadata={"run": "7"},
        method={"type": "supervised", "supervised": {"hyperparameters": settings}},
    )  # fmt: skip
    assert (made.status, made.seed, made.metadata, made.method.type) == (
        "validating_files", 4, {"run": "7"}, "supervised"
    )  # fmt: skip
    assert (made.hyperparameters.n_epochs, made.hyperparameters.batch_size) == (3, 16)
    assert made.hyperparameters.learning_rate_multiplier == 2
    assert made.method.supervised.hyperparameters.n_epochs == 3
    job = team.read("rftjob", made.id)
    assert job["spec"]["warmup"]["epochs"] == 3
    assert job["spec"]["warmup"]["learningRate"] == "4e-5"
    assert {each["imitate"] for split in ("data", "validation") for each in job["spec"]["warmup"][split]} == {
        "EveryAnswer"
    }
    assert "train" not in job["spec"].get("data", {})
    assert not team.read("rewardfunctions")["items"]
    progress = {"phase": "WarmUp", "step": 2, "totalSteps": 6, "loss": "2.5000"}
    team.set_job_status(made.id, condition("Succeeded", "Unknown", "Running"), startTime=STARTED, progress=progress)
    event = next(each for each in client.fine_tuning.jobs.list_events(made.id) if each.type == "metrics")
    assert event.data == {"step": 2, "total_steps": 6, "train_loss": 2.5}
    result = {
        "baselineLoss": "2.9000", "tunedLoss": "0.4000", "lossChange": "-2.5000",
        "lossInterval": "-2.6000 to -2.4000", "checkpoint": "s3://runs/jobs/x/best",
    }  # fmt: skip
    team.set_job_status(
        made.id, condition("Succeeded", "True", "Succeeded", "", ENDED), result=result, completionTime=ENDED
    )
    ended = client.fine_tuning.jobs.retrieve(made.id)
    assert (ended.status, ended.fine_tuned_model) == ("succeeded", f"base-tone-{made.id[-8:]}")
    # As scripts have it that are older than methods.
    older = client.fine_tuning.jobs.create(model="base", training_file=file.id, hyperparameters={"n_epochs": 2})
    assert team.read("rftjob", older.id)["spec"]["warmup"]["epochs"] == 2
    assert older.hyperparameters.n_epochs == 2
    assert client.fine_tuning.jobs.pause(older.id).status == "paused"
    assert client.fine_tuning.jobs.cancel(older.id).status == "cancelled"


def test_files_in_a_folder_are_no_data_of_pods(tmp_path, kubeconfig, team):
    gateway = ClusterGateway(tmp_path / "gateway", kubeconfig, "--fine-tuning", "--files", str(tmp_path / "files"))
    team.enable_fine_tuning(data=DATA)
    with gateway:
        gateway.wait_until_ready()
        with connect(gateway, team.add_key("ci")) as client:
            content = b'{"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}\n'
            file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
            refuse_file(client, file.id, "keeps its files in a folder, which pods cannot read")


def refuse_file(
    client: openai.OpenAI, name: str, message: str = "is neither the id of a file of the namespace"
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"training_file: .*{message}") as refused:
        create(client, training_file=name)
    assert (refused.value.param, refused.value.code) == ("training_file", "file_not_found")


def open_events(client: openai.OpenAI, job: str) -> openai.Stream[FineTuningJobEvent]:
    """The events of a job as they come."""
    return client.get(
        f"/fine_tuning/jobs/{job}/events", options={"params": {"stream": "true"}}, cast_to=FineTuningJobEvent,
        stream=True, stream_cls=openai.Stream[FineTuningJobEvent],
    )  # fmt: skip


def test_events_as_they_come(client, team):
    made = create(client)
    with open_events(client, made.id) as stream:
        assert next(stream).message == f"Created fine-tuning job: {made.id}"
        for step in (1, 2):
            progress = {"step": step, "totalSteps": 3, "reward": f"0.{step}000"}
            team.set_job_status(
                made.id, condition("Succeeded", "Unknown", "Running"), startTime=STARTED, progress=progress
            )
            wanted = {f"Step {step}/3: train mean reward=0.{step}000"} | ({"Running"} if step == 1 else set())
            assert {next(stream).message for _ in wanted} == wanted
        team.set_job_status(made.id, condition("Succeeded", "False", "OutOfMemory", "x", ENDED), completionTime=ENDED)
        assert [event.message for event in stream] == ["OutOfMemory: x"]
    listed = {event.message for event in client.fine_tuning.jobs.list_events(made.id)}
    assert {f"Created fine-tuning job: {made.id}", "OutOfMemory: x"} < listed
    with pytest.raises(openai.BadRequestError, match="limit: does not go with stream"):
        client.fine_tuning.jobs.list_events(made.id, limit=1, extra_query={"stream": "true"})
    assert client.fine_tuning.jobs.list_events(made.id, limit=1, extra_query={"stream": "false"}).has_more


def test_streams_of_events_that_end_before_the_job(client, team, other_team, tuning_gateway):
    made = create(client)
    with connect(tuning_gateway, other_team.add_key("ci")) as other, pytest.raises(openai.NotFoundError):
        open_events(other, made.id)
    token = team.add_key("leaving")
    with connect(tuning_gateway, token) as leaving, open_events(leaving, made.id) as stream:
        next(stream)
        team("delete", "secret", "leaving")
        with pytest.raises(openai.APIError, match="Incorrect API key provided"):
            list(stream)
    with open_events(client, made.id) as stream:
        next(stream)
        team("delete", "rftjob", made.id)
        with pytest.raises(openai.APIError, match=f"Fine-tuning job {made.id} was deleted"):
            list(stream)


def test_streams_of_events_end_with_the_gateway(tmp_path, kubeconfig, team):
    team.enable_fine_tuning(data=DATA)
    with ClusterGateway(tmp_path / "gateway", kubeconfig, "--fine-tuning") as gateway:
        gateway.wait_until_ready()
        with connect(gateway, team.add_key("ci")) as client, open_events(client, create(client).id) as stream:
            next(stream)
            gateway.process.terminate()
            with pytest.raises(openai.APIError, match="The gateway is stopping"):
                list(stream)
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


def test_pause_resume_and_cancel(client, team):
    made = create(client)
    assert client.fine_tuning.jobs.pause(made.id).status == "paused"
    assert team.read("rftjob", made.id)["spec"]["suspend"] is True
    assert client.fine_tuning.jobs.resume(made.id).status == "validating_files"
    assert team.read("rftjob", made.id)["spec"]["suspend"] is False
    assert client.fine_tuning.jobs.cancel(made.id).status == "cancelled"
    cancelled = team.read("rftjob", made.id)
    assert cancelled["spec"]["suspend"] is True
    assert FINE_TUNING_CANCELLED in cancelled["metadata"]["annotations"]
    for operation in (client.fine_tuning.jobs.resume, client.fine_tuning.jobs.pause, client.fine_tuning.jobs.cancel):
        with pytest.raises(openai.BadRequestError, match="it is cancelled"):
            operation(made.id)


def test_graders_of_others(client, team):
    made = create(client, LAMBDA)
    assert team.read("rewardfunction", made.id)["spec"]["lambda"]["functionArn"] == LAMBDA["lambda"]["function"]
    ours = {"type": "reward_function", "name": "exact"}
    with pytest.raises(openai.BadRequestError, match="there is no RewardFunction exact") as refused:
        create(client, ours)
    assert refused.value.param == "method.reinforcement.grader.name"
    team.apply(REWARD)
    made = create(client, ours)
    assert team.read("rftjob", made.id)["spec"]["data"]["train"][0]["reward"] == "exact"
    assert made.id not in team("get", "rewardfunctions", "--output=name")


def test_graders_are_validated_as_jobs_check_them(client, team, tuning_gateway):
    validate = client.fine_tuning.alpha.graders.validate
    python = {"type": "python", "name": "code", "source": "import numpy\n\ndef grade(sample, item):\n    return 1.0\n"}
    label = {
        "type": "label_model", "name": "label", "model": "base", "labels": ["good", "bad"], "passing_labels": ["good"],
        "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
    }  # fmt: skip
    similar = {**STRING_CHECK, "type": "text_similarity", "evaluation_metric": "bleu"}
    del similar["operation"]
    judge = {**SCORE_MODEL, "model": "base"}
    multi = {
        "type": "multi", "name": "both", "graders": {"a": STRING_CHECK, "b": judge}, "calculate_output": "a + b"
    }  # fmt: skip
    ours = {"type": "reward_function", "name": "exact"}
    refused_both(client, ours, "grader.name", "there is no RewardFunction exact")
    team.apply(REWARD)
    endpoint = {"type": "endpoint", "url": "https://grade.example.com/api"}
    for grader in (STRING_CHECK, similar, python, judge, label, multi, LAMBDA, endpoint, ours):
        assert validate(grader=grader).to_dict() == {"grader": grader}
    for grader, param, message in (
        ({**STRING_CHECK, "operation": "is"}, "grader.operation", "must be one of"),
        ({"type": "endpoint", "url": "https://x/grade", "headers": {"k": "v"}}, "grader.headers", "from a Secret"),
        (SCORE_MODEL, "grader.model", "there is no model judge"),
        ({**multi, "graders": {"a": STRING_CHECK, "b": SCORE_MODEL}}, "grader.graders.b.model", "no model judge"),
        ({**similar, "evaluation_metric": "cosine"}, "grader", "cosine needs a model for embeddings"),
        ({**python, "source": "x" * 250_000}, "grader", "may have 204,800"),
    ):
        refused_both(client, grader, param, message)
    assert [each["metadata"]["name"] for each in team.read("rewardfunctions")["items"]] == ["exact"]
    assert not team.read("rftjobs")["items"]
    team.add_base("judge")
    assert validate(grader=SCORE_MODEL).grader.model == "judge"
    with connect(tuning_gateway, team.add_key("narrow", models=("base",))) as narrow:
        refused_both(narrow, SCORE_MODEL, "grader.model", "or this key does not open it")
        address, headers = (
            f"{tuning_gateway.url}/v1/fine_tuning/alpha/graders",
            {"Authorization": f"Bearer {narrow.api_key}"},
        )
        answer = httpx.get(f"{address}/validate", headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def refused_both(client: openai.OpenAI, grader: dict[str, Any], param: str, message: str) -> None:
    """A grader is refused alone and in a job, in the same words."""
    with pytest.raises(openai.BadRequestError, match=message) as alone:
        client.fine_tuning.alpha.graders.validate(grader=grader)
    with pytest.raises(openai.BadRequestError, match=message) as in_job:
        create(client, grader)
    assert (alone.value.param, in_job.value.param) == (param, f"method.reinforcement.{param}")
    assert alone.value.code == in_job.value.code


def test_lists(client, team):
    older = rft_job()
    del (
        older["status"],
        older["metadata"]["uid"],
        older["metadata"]["creationTimestamp"],
        older["metadata"]["namespace"],
    )
    team.apply(older, REWARD)
    made = [create(client, metadata={"number": str(number), "team": "x"}).id for number in range(3)]
    jobs = client.fine_tuning.jobs
    assert {job.id for job in jobs.list()} == {"amounts", *made}
    order = [job.id for job in jobs.list(limit=1)]
    assert order == [job.id for job in jobs.list()]
    assert [job.id for job in jobs.list(metadata={"number": "1", "team": "x"})] == [made[1]]
    assert list(jobs.list(metadata={"number": "9"})) == []
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == ["amounts"]
    assert [job.id for job in jobs.list(after=order[1], limit=1)] == order[2:]
    assert len(jobs.list(limit=2).data) == 2
    with pytest.raises(openai.NotFoundError):
        jobs.list(after="other")
    with pytest.raises(openai.BadRequestError, match="from 1 to 100"):
        jobs.list(limit=0)
    with pytest.raises(openai.BadRequestError, match="is not a parameter"):
        jobs.list(extra_query={"before": "x"})


def test_a_request_that_is_sent_again_makes_no_second_job(client, team):
    headers = {"Idempotency-Key": "notebook-1"}
    first = create(client, extra_headers=headers)
    assert create(client, extra_headers=headers).id == first.id
    assert create(client, suffix="other", extra_headers=headers).id != first.id
    # the gateway was killed when only the reward existed
    team("delete", "rftjob", first.id)
    assert create(client, extra_headers=headers).id == first.id
    assert (
        team.read("rewardfunction", first.id)["metadata"]["ownerReferences"][-1]["uid"]
        == (team.read("rftjob", first.id)["metadata"]["uid"])
    )


def test_errors(client, team, other_team, tuning_gateway):
    jobs = client.fine_tuning.jobs
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        create(client, model="other")
    for name in ("other", "a/../b", "A", "%2e"):
        with pytest.raises(openai.NotFoundError):
            jobs.retrieve(name)
    with pytest.raises(
        openai.BadRequestError, match="neither the id of a file of the namespace, nor an address that it admits"
    ) as refused:
        create(client, training_file="s3://secrets/x")
    assert refused.value.param == "training_file"
    with pytest.raises(openai.BadRequestError, match="whole number from 1 to 256") as refused:
        create(client, hyperparameters={"batch_size": 0})
    assert refused.value.param == "method.reinforcement.hyperparameters.batch_size"
    team.add_adapter("tax", "base")
    with pytest.raises(openai.BadRequestError, match="is an adapter"):
        create(client, model="tax")
    made = create(client)
    with connect(tuning_gateway, other_team.add_key("ci")) as other:
        with pytest.raises(openai.NotFoundError):
            other.fine_tuning.jobs.retrieve(made.id)
        with pytest.raises(openai.PermissionDeniedError, match="Fine-tuning is not enabled in namespace"):
            create(other)
    with connect(tuning_gateway, team.add_key("narrow", models=("tax",))) as narrow:
        assert list(narrow.fine_tuning.jobs.list()) == []
        with pytest.raises(openai.NotFoundError):
            narrow.fine_tuning.jobs.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            create(narrow)
    team("patch", "configmap", "rft-fine-tuning", "--patch", json.dumps({"data": {"compute": "{gpus: 1}"}}))
    with pytest.raises(openai.InternalServerError, match=r"data\.compute\.gpus: unknown field"):
        create(client)
    assert team("get", "rftjobs", "--output=name").split() == [f"rftjob.rft.dev/{made.id}"]
    address, headers = f"{tuning_gateway.url}/v1/fine_tuning/jobs", {"Authorization": f"Bearer {client.api_key}"}
    for method, path, status in (("DELETE", "", 405), ("GET", "/x/cancel", 405), ("GET", "/x/permissions", 404)):
        answer = httpx.request(method, address + path, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


def test_what_the_api_server_refuses_is_said(client, team):
    quota = {
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "jobs"},
        "spec": {"hard": {"count/rftjobs.rft.dev": "0"}},
    }  # fmt: skip
    team.apply(quota)

    def is_refused() -> bool:
        try:
            create(client)
        except openai.PermissionDeniedError as error:
            return "quota" in error.message
        return False

    wait_until(is_refused)


def test_a_gateway_without_the_api(gateway):
    with connect(gateway, gateway.token) as client, pytest.raises(openai.NotFoundError, match="Invalid URL"):
        client.fine_tuning.jobs.list()
