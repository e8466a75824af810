"""A run resumes only with the inputs that it started with: changed files at the same addresses are refused by name."""

import json
import shutil

import pytest
from support.patience import wait_until
from support.tiny import digits_rows, write_jsonl
from support.trainer import TrainerProgram, hyperparameters, job_spec, pause_after, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.files import atomic_write
from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.storage import ObjectStore
from rft_api.summary import Provenance
from rft_trainer.base_model import local_base_model
from rft_trainer.digests import check_inputs
from rft_trainer.flow import Run
from rft_trainer.progress import ProgressReporter
from rft_trainer.provenance import build_provenance


@pytest.fixture
def inputs(model, data, tmp_path):
    """Copies of the model and the data that a test changes."""
    return shutil.copytree(model, tmp_path / "model"), shutil.copytree(data, tmp_path / "data")


def started(tmp_path, inputs):
    """The configuration of a run with a warm-up that has recorded what it is made from."""
    warmup = {"data": [{"name": "shown", "uri": str(inputs[1] / "warmup.jsonl")}]}
    config = render(job_spec(*inputs, tmp_path / "out", warmup=warmup), tmp_path / "run", "http://127.0.0.1:1", None)
    folder = RunFolder(config.output)
    atomic_write(folder.config, config.model_dump_json(by_alias=True))
    atomic_write(
        folder.provenance, build_provenance(config, local_base_model(config, None)).model_dump_json(by_alias=True)
    )
    return config


def append_line(path):
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize(
    ("name", "label", "code"),
    [
        ("data/train.jsonl", "(train/digits)", ExitCode.DATA_INVALID),
        ("data/validation.jsonl", "(validation/digits)", ExitCode.DATA_INVALID),
        ("data/test.jsonl", "(test/digits)", ExitCode.DATA_INVALID),
        ("data/warmup.jsonl", "(warmup/shown)", ExitCode.DATA_INVALID),
        ("model/tokenizer_config.json", "model: tokenizer_config.json", ExitCode.MODEL_INVALID),
    ],
)
def test_each_changed_input_is_named(tmp_path, inputs, name, label, code):
    config = started(tmp_path, inputs)
    check_inputs(config, None)
    append_line(tmp_path / name)
    with pytest.raises(RunError) as caught:
        check_inputs(config, None)
    assert caught.value.code is code
    named = [line for line in caught.value.message.splitlines() if line.startswith("  ")]
    assert len(named) == 1
    assert str(tmp_path / name.split("/")[0]) in named[0]
    assert named[0].endswith(label)
    assert "Restore what was there" in caught.value.message


def test_a_resumed_run_says_how_much_of_its_inputs_it_has_compared(tmp_path, inputs):
    config = started(tmp_path, inputs)
    reports = []
    check_inputs(config, None, lambda done, total: reports.append((done, total)))
    read = [path for path in inputs[0].iterdir() if path.name != "README.md"]
    assert reports[-1][0] == reports[-1][1] >= (inputs[0] / "model.safetensors").stat().st_size
    assert len(reports) > len(read) / 2


def test_a_changed_reward_is_named(tmp_path, inputs):
    config = started(tmp_path, inputs)
    rewards = {name: target.model_copy(update={"digest": "sha256:other"}) for name, target in config.rewards.items()}
    with pytest.raises(RunError, match="reward digits") as caught:
        check_inputs(config.model_copy(update={"rewards": rewards}), None)
    assert caught.value.code is ExitCode.CONFIGURATION_INVALID


def test_files_that_a_run_does_not_read_may_change(tmp_path, inputs):
    config = started(tmp_path, inputs)
    (inputs[0] / "README.md").write_text("more")
    check_inputs(config, None)


def test_a_finished_run_is_not_refused_and_says_what_has_changed(tmp_path, inputs, caplog):
    config = started(tmp_path, inputs)
    RunFolder(config.output).summary.write_text("{}")
    check_inputs(config, None)
    assert caplog.text == ""
    append_line(inputs[1] / "test.jsonl")
    check_inputs(config, None)
    assert "its result is of what was measured, not of what is there now" in caplog.text
    assert f"  {inputs[1] / 'test.jsonl'} (test/digits)\n" in caplog.text


def test_the_record_of_the_first_start_stays_and_another_precision_is_said(tmp_path, inputs, caplog):
    config = started(tmp_path, inputs)
    file = RunFolder(config.output).provenance
    changed = Provenance.model_validate_json(file.read_bytes()).model_copy(update={"precision": "bfloat16"})
    file.write_text(changed.model_dump_json(by_alias=True))
    before = file.read_bytes()
    run = Run(config, None, 0, ProgressReporter("default", "test"), lambda: False)
    run._record_provenance(local_base_model(config, None))
    assert file.read_bytes() == before
    assert "this run started in bfloat16 and goes on in float32; set spec.compute.precision" in caplog.text


def test_easier_test_prompts_on_a_resume_are_no_gain(tmp_path, inputs, rewards):
    spec = job_spec(*inputs, tmp_path / "out", hyperparameters=hyperparameters(maxSteps=4))
    config = render(spec, tmp_path / "run", rewards.url, rewards.token_file)
    killed = TrainerProgram(config, tmp_path / "run", free_port(), environment=pause_after(1, tmp_path))
    base = killed.folder.evaluation("base")
    wait_until(base.exists, lambda: len(killed.log), lambda: killed.log, pause=0.05)
    killed.kill()
    provenance, evaluation = killed.folder.provenance.read_bytes(), base.read_bytes()
    test = inputs[1] / "test.jsonl"
    original = test.read_bytes()
    write_jsonl(test, digits_rows(6, 2, seed=5))

    resumed = TrainerProgram(config, tmp_path / "run", free_port())
    assert resumed.wait() == ExitCode.DATA_INVALID, resumed.log
    assert f"  {test} (test/digits)\n" in resumed.log
    assert killed.folder.provenance.read_bytes() == provenance
    assert base.read_bytes() == evaluation

    test.write_bytes(original)
    again = TrainerProgram(config, tmp_path / "run", free_port())
    assert again.succeed().prompts == 24
    assert killed.folder.provenance.read_bytes() == provenance


def test_an_object_of_the_same_size_is_fetched_again(tmp_path, s3, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket, store = s3.make_bucket("bucket-of-same-sizes"), ObjectStore()
    at = f"s3://{bucket.name}/data"
    fetched: list[int] = []

    def put(name, text):
        file = tmp_path / "file"
        file.write_text(text)
        store.upload(file, f"{at}/{name}")

    def fetch(address, target):
        fetched.clear()
        assert store.fetch(address, target, report=lambda done, total: fetched.append(total))
        return target

    put("a.jsonl", "yes")
    put("b.jsonl", "old")
    folder = fetch(at, tmp_path / "scratch/0")
    assert max(fetched) == 6
    fetch(at, folder)
    assert fetched == []
    put("a.jsonl", "no!")
    store.delete(f"{at}/b.jsonl")
    fetch(at, folder)
    assert max(fetched) == 3
    assert (folder / "a.jsonl").read_text() == "no!"
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"], "neither stale copies nor notes of ours"

    one = fetch(f"{at}/a.jsonl", tmp_path / "scratch/1")
    put("a.jsonl", "new")
    assert fetch(f"{at}/a.jsonl", one).read_text() == "new"
    # This server has no ETag of a file that it has not written itself; then nothing says that the copy is current.
    for text in ("old", "new"):
        (bucket / "data/c.jsonl").write_text(text)
        assert fetch(f"{at}/c.jsonl", tmp_path / "scratch/2").read_text() == text


def test_a_replaced_object_ends_the_resume_by_its_address(tmp_path, s3, inputs, rewards):
    bucket = s3.make_bucket("bucket-of-changed-inputs")
    shutil.copytree(inputs[0], bucket / "model")
    shutil.copytree(inputs[1], bucket / "data")
    at = f"s3://{bucket.name}"
    spec = job_spec(bucket, bucket, bucket, hyperparameters=hyperparameters(maxSteps=6))
    spec["model"]["uri"], spec["output"]["uri"] = f"{at}/model", f"{at}/run"
    for split, sources in spec["data"].items():
        sources[0]["uri"] = f"{at}/data/{split}.jsonl"
    config = render(spec, tmp_path / "run", rewards.url, rewards.token_file)

    def start(**variables):
        return TrainerProgram(config, tmp_path / "run", free_port(), environment=s3.environment() | variables)

    killed = start(**pause_after(1, tmp_path))
    killed.wait_for_line(1)
    stored = RunFolder(bucket / "run").provenance
    wait_until(stored.exists, lambda: len(killed.log), lambda: killed.log)
    killed.kill()
    test = bucket / "data/test.jsonl"
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    rows[0]["reference_answer"] = "9" * len(rows[0]["reference_answer"])
    size = test.stat().st_size
    write_jsonl(test, rows)
    assert test.stat().st_size == size
    resumed = start()
    assert resumed.wait() == ExitCode.DATA_INVALID, resumed.log
    assert f"  {at}/data/test.jsonl (test/digits)\n" in resumed.log
