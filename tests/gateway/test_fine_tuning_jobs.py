"""What OpenAI's API says of RFTJobs: states, errors, events and checkpoints, in the types of the openai package."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from support.fine_tuning import CREATED, ENDED, STARTED, STRING_CHECK, condition, request, rft_job

from rft_api.object_labels import FINE_TUNING_CANCELLED, FINE_TUNING_REQUEST
from rft_gateway.fine_tuning.checkpoints import describe_checkpoints
from rft_gateway.fine_tuning.events import describe_events
from rft_gateway.fine_tuning.job import Job

SUCCEEDED = condition("Succeeded", "True", "Succeeded", "reward 0.2 -> 0.8", ENDED)
CHECKPOINTS = [
    {"step": 20, "validationReward": "0.8000", "uri": "s3://runs/amounts/checkpoints/step-20"},
    {"step": 10, "validationReward": "0.5000", "uri": "s3://runs/amounts/checkpoints/step-10"},
]


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def job(*conditions, **fields) -> Job:
    return Job(rft_job(*conditions, **fields))


def read_job(described) -> FineTuningJob:
    """A job in the type of the openai package, which does not know the graders that are ours alone."""
    method = described["method"]
    if method["reinforcement"]["grader"]["type"] == "reward_function":
        method = {**method, "reinforcement": {**method["reinforcement"], "grader": STRING_CHECK}}
    return FineTuningJob.model_validate({**described, "method": method}, strict=True)


def unknown(reason: str, message: str = "") -> dict[str, str]:
    return condition("Succeeded", "Unknown", reason, message)


def of_a_request(document, *conditions, **annotations) -> Job:
    made = rft_job(*conditions, suspend=FINE_TUNING_CANCELLED in annotations)
    made["metadata"]["annotations"] = {FINE_TUNING_REQUEST: json.dumps(document), **annotations}
    return Job(made)


@pytest.mark.parametrize(
    ("conditions", "suspend", "state"),
    [
        ((), False, "validating_files"),
        ((unknown("WaitingForRewards"),), False, "validating_files"),
        ((unknown("ConfigurationInvalid", "spec.x"),), False, "validating_files"),
        ((unknown("Queued"),), False, "queued"),
        ((unknown("Starting"),), False, "queued"),
        ((unknown("Unschedulable"),), False, "queued"),
        ((unknown("ImagePullFailed"),), False, "queued"),
        ((unknown("Running"),), False, "running"),
        ((unknown("Retrying"),), False, "running"),
        ((unknown("Stopping"),), False, "running"),
        ((unknown("Stopping"),), True, "paused"),
        ((unknown("Suspended"),), True, "paused"),
        ((), True, "paused"),
        ((SUCCEEDED,), False, "succeeded"),
        ((SUCCEEDED,), True, "succeeded"),
        ((condition("Succeeded", "False", "DataInvalid", "rows"),), False, "failed"),
    ],
)
def test_states(conditions, suspend, state):
    described = job(*conditions, suspend=suspend).describe()
    assert described["status"] == state
    if state != "paused":  # in OpenAI's guide, and not yet in its types
        read_job(described)


def test_a_job_of_kubectl():
    described = job(SUCCEEDED, startTime=STARTED, completionTime=ENDED).describe()
    read = read_job(described)
    assert (read.id, read.model, read.fine_tuned_model, read.organization_id) == ("amounts", "base", "amounts", "team")
    assert (read.created_at, read.finished_at) == (seconds(CREATED), seconds(ENDED))
    assert (read.training_file, read.validation_file, read.seed) == ("s3://data/train.jsonl", None, 7)
    assert (read.hyperparameters.n_epochs, read.hyperparameters.batch_size) == (2, 16)
    assert read.hyperparameters.learning_rate_multiplier is None
    assert (read.trained_tokens, read.error, read.metadata) == (None, None, None)
    assert described["method"]["reinforcement"]["grader"] == {"type": "reward_function", "name": "exact"}


def test_a_job_of_a_request_says_what_was_asked():
    asked = request(
        hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 0.5}, suffix="Mine", metadata={"k": "v"},
        validation_file="file-v", training_file="file-t",
    )  # fmt: skip
    described = of_a_request(asked, unknown("Running")).describe()
    read = read_job(described)
    assert (read.training_file, read.validation_file, read.metadata) == ("file-t", "file-v", {"k": "v"})
    assert read.hyperparameters.learning_rate_multiplier == 0.5
    assert described["method"] == asked["method"]
    assert described["suffix"] == "Mine"
    assert read.fine_tuned_model is None
    assert of_a_request(request()).describe()["hyperparameters"]["learning_rate_multiplier"] == "auto"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"method": 1, "metadata": [1], "training_file": ""}'])
def test_an_annotation_that_somebody_has_changed(text):
    made = rft_job(SUCCEEDED, completionTime=ENDED)
    made["metadata"]["annotations"] = {FINE_TUNING_REQUEST: text}
    read = read_job(Job(made).describe())
    assert read.training_file == "s3://data/train.jsonl"
    assert read.method.type == "reinforcement"


def test_no_tuned_model_where_nothing_serves_it():
    taken = condition("EndpointReady", "False", "EndpointTaken")
    assert job(SUCCEEDED, taken).describe()["fine_tuned_model"] is None
    starting = condition("EndpointReady", "False", "ScaledToZero")  # a request wakes it
    assert job(SUCCEEDED, starting).describe()["fine_tuned_model"] == "amounts"


def test_cancelled_jobs():
    cancelled = of_a_request(request(), unknown("Suspended"), **{FINE_TUNING_CANCELLED: ENDED})
    assert (cancelled.state, cancelled.finished_at) == ("cancelled", seconds(ENDED))
    assert describe_events(cancelled)[0]["message"].startswith("The job was cancelled")
    # somebody lets it run again with kubectl
    made = rft_job(unknown("Running"))
    made["metadata"]["annotations"] = {FINE_TUNING_CANCELLED: ENDED}
    assert Job(made).state == "running"


@pytest.mark.parametrize(
    ("reason", "code", "param"),
    [
        ("DataInvalid", "data_invalid", "training_file"),
        ("ModelInvalid", "model_invalid", "model"),
        ("RewardFailing", "reward_failing", "method.reinforcement.grader"),
        ("NotLearnable", "not_learnable", "method.reinforcement.grader"),
        ("GpuHoursExceeded", "gpu_hours_exceeded", None),
        ("OutOfMemory", "out_of_memory", None),
    ],
)
def test_errors(reason, code, param):
    failed = job(condition("Succeeded", "False", reason, "what to do", ENDED), completionTime=ENDED)
    assert failed.describe()["error"] == {"code": code, "message": "what to do", "param": param}
    assert describe_events(failed)[0] | {"id": ""} == {
        "object": "fine_tuning.job.event", "id": "", "created_at": seconds(ENDED), "level": "error",
        "message": f"{reason}: what to do", "type": "message", "data": {},
    }  # fmt: skip


def imitating(*conditions, **status):
    """An RFTJob that is its warm-up alone, made with kubectl."""
    made = rft_job(*conditions, **status)
    source = {"name": "rows", "uri": "s3://data/answers.jsonl"}
    made["spec"]["warmup"] = {"data": [source], "epochs": 4, "batchSize": 8}
    del made["spec"]["data"]
    return made


def test_a_supervised_job():
    made = imitating(unknown("Running"))
    described = Job(made).describe()
    job = FineTuningJob.model_validate(described, strict=True)
    assert (job.training_file, job.validation_file) == ("s3://data/answers.jsonl", None)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (4, 8)
    assert job.method is not None
    assert job.method.type == "supervised"
    assert described["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 4, "batch_size": 8}},
    }
    made["spec"]["warmup"]["validation"] = [{"name": "v", "uri": "s3://data/v.jsonl"}]
    for asked in (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 2}}}},
        {"hyperparameters": {"learning_rate_multiplier": 2}},
    ):
        document = {"model": "base", "training_file": "file-a", **asked}
        made["metadata"]["annotations"] = {FINE_TUNING_REQUEST: json.dumps(document)}
        job = FineTuningJob.model_validate(Job(made).describe(), strict=True)
        assert (job.training_file, job.validation_file) == ("file-a", "s3://data/v.jsonl")
        assert job.hyperparameters.learning_rate_multiplier == 2
        assert job.method is not None
        assert job.method.type == "supervised"


def test_the_last_step_of_a_supervised_job():
    progress = {"phase": "WarmUp", "step": 4, "totalSteps": 20, "loss": "1.2500", "validationLoss": "1.3000"}
    found = events(Job(imitating(unknown("Running"), startTime=STARTED, progress=progress)))
    (event,) = (event for event in found if event.type == "metrics")
    assert (event.type, event.message) == ("metrics", "Step 4/20: training loss=1.2500, full validation loss=1.3000")
    assert event.data == {"step": 4, "total_steps": 20, "train_loss": 1.25, "full_valid_loss": 1.3}


def test_a_status_of_a_newer_operator():
    newer = rft_job({**SUCCEEDED, "more": 1}, progress={"phase": "Done", "speed": 3}, more=1)
    assert Job(newer).state == "succeeded"
    with pytest.raises(ValueError, match="step"):
        Job(rft_job(progress={"step": "three"}))


def test_checkpoints():
    ended = job(SUCCEEDED, completionTime=ENDED, checkpoints=CHECKPOINTS)
    best, second = (FineTuningJobCheckpoint.model_validate(each, strict=True) for each in describe_checkpoints(ended))
    assert (best.id, best.step_number, best.fine_tuned_model_checkpoint) == ("ftckpt-amounts-20", 20, "amounts")
    assert second.fine_tuned_model_checkpoint == "s3://runs/amounts/checkpoints/step-10"
    served = rft_job(SUCCEEDED, completionTime=ENDED, checkpoints=CHECKPOINTS)
    served["spec"]["endpoint"]["checkpoints"] = True
    names = [each["fine_tuned_model_checkpoint"] for each in describe_checkpoints(Job(served))]
    assert names == ["amounts", "amounts-step-10"]
    assert (best.created_at, best.fine_tuning_job_id) == (seconds(ENDED), "amounts")
    assert describe_checkpoints(ended)[0]["metrics"] == {"step": 20, "full_valid_mean_reward": 0.8}
    assert describe_checkpoints(job(unknown("Running"))) == []


def events(job: Job) -> list[FineTuningJobEvent]:
    return [FineTuningJobEvent.model_validate(event, strict=True) for event in describe_events(job)]


def test_events_of_conditions():
    warned = job(
        unknown("Running"),
        condition("RewardsReady", "True", "RewardsReady", time=CREATED),
        condition("RewardHackingSuspected", "True", "ShadowFalls", "look", "2026-11-30T12:30:00Z"),
        condition("EndpointReady", "False", "ConfigurationInvalid", "sources", CREATED),
        startTime=STARTED,
    )
    found = events(warned)
    assert [(event.level, event.message) for event in found] == [
        ("warn", "ShadowFalls: look"),
        ("info", "Running"),
        ("warn", "ConfigurationInvalid: sources"),
        ("info", "RewardsReady"),
        ("info", "Created fine-tuning job: amounts"),
    ]
    assert len({event.id for event in found}) == 5
    assert events(warned) == found
    assert [event.level for event in events(job(unknown("Unschedulable", "no node")))] == ["warn", "info"]


def test_the_last_step_of_the_status():
    progress = {"step": 4, "totalSteps": 20, "reward": "0.2500", "validationReward": "0.1000", "episodeLength": "31.5"}
    running = rft_job(unknown("Running"), startTime=STARTED, progress=progress)
    running["metadata"]["managedFields"] = [
        {"manager": "kubectl", "time": ENDED},
        {"manager": "rft-operator", "subresource": "status", "time": "2026-11-30T12:40:00Z"},
    ]
    event = events(Job(running))[0]
    assert (event.type, event.message) == (
        "metrics",
        "Step 4/20: train mean reward=0.2500, validation mean reward=0.1000",
    )
    assert event.created_at == seconds("2026-11-30T12:40:00Z")
    assert event.data == {
        "step": 4, "total_steps": 20, "train_mean_reward": 0.25, "full_valid_mean_reward": 0.1,
        "completion_tokens_mean": 31.5,
    }  # fmt: skip


def test_checkpoints_among_the_events():
    ended = job(SUCCEEDED, startTime=STARTED, completionTime=ENDED, checkpoints=CHECKPOINTS)
    messages = [event.message for event in events(ended)]
    assert messages[0] == "The job has successfully completed. reward 0.2 -> 0.8"
    assert messages[2] == "Kept the checkpoint of step 20: s3://runs/amounts/checkpoints/step-20"
