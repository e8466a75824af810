"""Runs whose model, data and output are in an object store, on a real S3 server."""

import gzip
import json
import shutil
import uuid

import pytest
from support.trainer import TrainerProgram, curve, hyperparameters, job_spec, pause_after, render

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.summary import Summary
from rft_api.termination import parse_failure, parse_result


def make_bucket(s3, model, data):
    """Makes a bucket with the model and the data; returns its folder on the server."""
    folder = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    shutil.copytree(model, folder / "models/tiny")
    # Beside it lies what must be neither taken for the model nor loaded.
    (folder / "models/tiny-2").mkdir()
    (folder / "models/tiny-2/config.json").write_text("{}")
    (folder / "models/tiny/pytorch_model.bin").write_bytes(b"pickled")
    shutil.copytree(data, folder / "data")
    return folder


@pytest.fixture
def bucket(s3, model, data):
    return make_bucket(s3, model, data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, s3, model, data, rewards):
    """The bucket, the summary, the program and its folder, of a run that has ended."""
    bucket, folder = make_bucket(s3, model, data), tmp_path_factory.mktemp("undisturbed")
    program = start(bucket, folder, rewards, s3)
    return bucket, program.succeed(), program, folder


def start(bucket, folder, rewards, s3, environment=None, **changes):
    at = f"s3://{bucket.name}"
    spec = job_spec(bucket, bucket, bucket, **{"hyperparameters": hyperparameters(maxSteps=6), **changes})
    spec["model"]["uri"], spec["output"]["uri"] = f"{at}/models/tiny", f"{at}/runs/one/"
    for split, sources in spec["data"].items():
        sources[0]["uri"] = f"{at}/data/{split}.jsonl"
    config = render(spec, folder, rewards.url, rewards.token_file)
    environment = s3.environment() | {"RFT_TERMINATION_LOG": str(folder / "termination")} | (environment or {})
    return TrainerProgram(config, folder, free_port(), environment=environment)


def test_everything_comes_from_the_store_and_goes_there(undisturbed):
    bucket, summary, program, folder = undisturbed
    stored = RunFolder(bucket / "runs/one")
    assert Summary.model_validate_json(stored.summary.read_text()) == summary
    ours = {path.relative_to(program.folder.path): path for path in program.folder.path.rglob("*") if path.is_file()}
    theirs = {path.relative_to(stored.path): path for path in stored.path.rglob("*") if path.is_file()}
    assert ours.keys() == theirs.keys()
    assert all(ours[name].read_bytes() == theirs[name].read_bytes() for name in ours)
    assert (stored.best / "model.safetensors").exists()
    result = parse_result((folder / "termination").read_text())
    assert result is not None
    assert (result.base_reward, result.tuned_reward) == (summary.base.reward, summary.tuned.reward)
    assert "s3://" in stored.config.read_text(), "the configuration is recorded as given, not with local copies"


def test_a_run_on_invocation_logs_says_what_it_took(tmp_path, bucket, rewards, s3):
    hour = bucket / "logs/2025/03/11/00"
    (hour / "data").mkdir(parents=True)
    rows = [json.loads(line) for line in (bucket / "data/train.jsonl").read_text().splitlines()]
    records = [
        {
            "schemaType": "ModelInvocationLog",
            "modelId": "m",
            "input": {"inputBodyJson": {"messages": row["messages"]}},
            "output": {"outputBodyJson": {"generation": row["reference_answer"]}},
        }
        for row in [*rows, rows[0]]
    ]
    records[1]["modelId"] = "other"
    (hour / "x.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    at = f"s3://{bucket.name}"
    logs = {"uri": f"{at}/logs/", "format": "BedrockInvocationLog", "invocationLog": {"modelIds": ["m"]}}
    spec = job_spec(bucket, bucket, bucket, hyperparameters=hyperparameters(maxSteps=2), preflight={"action": "Skip"})
    spec["model"]["uri"], spec["output"]["uri"] = f"{at}/models/tiny", f"{at}/runs/one/"
    spec["data"] = {
        "train": [{**logs, "name": "production", "reward": "digits"}],
        "validation": [{**spec["data"]["validation"][0], "uri": f"{at}/data/validation.jsonl"}],
    }
    spec["warmup"] = {"data": [{**logs, "name": "shown", "invocationLog": {"limit": 8}}]}
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    program = TrainerProgram(config, tmp_path, free_port(), environment=s3.environment())
    summary = program.succeed()
    distinct = len({json.dumps(row["messages"]) for row in rows})
    assert summary.data.warmup_conversations == 8
    assert summary.data.invocation_logs["warmup/shown"].limited
    report = summary.data.invocation_logs["train/production"]
    assert report.records == len(rows) + 1
    assert report.left_out["OtherModel"] == 1
    assert distinct - 1 <= report.taken == summary.data.train_prompts <= distinct
    assert f"train/production: {report}" in program.log


def test_a_new_pod_goes_on_from_the_store(tmp_path, bucket, rewards, s3, undisturbed):
    _, summary, reference, _ = undisturbed
    killed = start(bucket, tmp_path / "run1", rewards, s3, environment=pause_after(5, tmp_path))
    killed.wait_for_line(5)
    marker = bucket / "runs/one/checkpoints/step-4/complete.json"
    killed.kill()
    # Everything that this machine had is gone; the step may or may not have been copied in time.
    shutil.rmtree(tmp_path / "run1/scratch")
    copied = marker.exists()
    again = start(bucket, tmp_path / "run1", rewards, s3)
    assert again.succeed().tuned == summary.tuned
    assert curve(again.metrics()) == curve(reference.metrics())
    if copied:
        assert "going on from step 4" in again.log


def test_a_store_that_is_away_for_a_while(tmp_path, bucket, rewards, s3):
    program = start(bucket, tmp_path / "run", rewards, s3)
    program.wait_for_line(1)
    s3.stop()
    program.wait_for_line(4)
    s3.start()
    program.succeed()
    assert (bucket / "runs/one/summary.json").exists()


@pytest.mark.parametrize(
    ("broken", "code", "message"),
    [
        ("data/test.jsonl", ExitCode.DATA_INVALID, "data/test.jsonl: nothing is stored there"),
        ("models/tiny", ExitCode.MODEL_INVALID, "models/tiny: nothing is stored there"),
        ("", ExitCode.OUTPUT_INVALID, "runs/one: "),
    ],
)
def test_what_is_not_there_is_named(tmp_path, bucket, rewards, s3, broken, code, message):
    path = bucket / broken
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    program = start(bucket, tmp_path / "run", rewards, s3)
    assert program.wait() == code, program.log
    assert f"s3://{bucket.name}/{message}" in program.log
    failure = parse_failure((tmp_path / "run/termination").read_text())
    assert failure.reason == code.reason
    assert message in failure.message
    assert "Traceback" not in program.log


def test_wrong_credentials_are_no_reason_to_try_again(tmp_path, bucket, rewards, s3):
    class Stranger:
        def environment(self):
            return s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}

    program = start(bucket, tmp_path / "run", rewards, Stranger())
    assert program.wait() == ExitCode.OUTPUT_INVALID, program.log
    assert f"cannot list s3://{bucket.name}/runs/one" in program.log
    assert "wrong" not in program.log
