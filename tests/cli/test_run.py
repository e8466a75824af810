"""`rft run`, with the real trainer and reward server on a tiny model: a whole run, interruptions, errors."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny
from support.patience import PATIENCE_SECONDS, wait_until
from support.trainer import pause_after

from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig

JOB = """\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {name: digits}
spec:
  model: {uri: model}
  data:
    train: [{name: digits, uri: train.jsonl, reward: share}]
    validation: [{name: digits, uri: "configmap://prompts/validation.jsonl", reward: share}]
    test: [{name: digits, uri: test.jsonl, reward: share}]
  shadowRewards: [brief]
  hyperparameters:
    {maxSteps: 8, batchSize: 8, samplesPerPrompt: 4, microBatchSize: 8, maxCompletionTokens: 8, learningRate: "1e-3",
     evalInterval: 4}
  tuning: {type: Full}
  compute: {gpusPerNode: 0}
  preflight: {prompts: 8, action: Warn}
  output: {uri: out}
  endpoint: {name: digits}
---
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata: {name: share}
spec:
  python: {sourceFrom: {configMap: {name: code, key: reward.py}}}
  tests:
  - {prompt: "21", completion: "12", referenceAnswer: "12", expect: {minimum: "1"}}
---
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata: {name: brief}
spec:
  builtin: {name: Format, format: {maximumCharacters: 2}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: code}
data:
  reward.py: |
    def lambda_handler(event, context):
        return [score(sample) for sample in event]

    def score(sample):
        text, wanted = sample["messages"][-1]["content"], sample["reference_answer"]
        right = sum(a == b for a, b in zip(text, wanted)) / max(len(wanted), len(text), 1)
        digits = sum(character.isdigit() for character in text) / max(len(text), 1)
        parts = [{"name": "right", "value": right}, {"name": "digits", "value": digits}]
        return {"id": sample["id"], "aggregate_reward_score": (right + digits) / 2, "metrics_list": parts}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """A folder with a job that runs in seconds."""
    (tmp_path / "model").symlink_to(model)
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.digits_rows(64, 2, seed=0))
    tiny.write_jsonl(tmp_path / "test.jsonl", tiny.digits_rows(12, 2, seed=2))
    rows = "".join(f"    {json.dumps(row)}\n" for row in tiny.digits_rows(8, 2, seed=1))
    prompts = f"---\nkind: ConfigMap\nmetadata: {{name: prompts}}\ndata:\n  validation.jsonl: |\n{rows}"
    (tmp_path / "job.yaml").write_text(JOB + prompts, encoding="utf-8")
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "job.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `rft run` in the background; nothing of it outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rft_cli.main", "run", str(folder / "job.yaml")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env={**os.environ, **environment}
        )
        processes.append(process)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def descendants(process: int) -> dict[int, str]:
    """Command lines of all processes below a process."""
    children: dict[int, list[int]] = {}
    for one in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((one / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(one.name))
    found: dict[int, str] = {}
    waiting = [process]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text(errors="replace").replace("\0", " ")
            except OSError:
                continue
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def steps(folder: Path) -> int:
    metrics = RunFolder(folder / "out").metrics
    return metrics.read_text().count('"train"') if metrics.exists() else 0


def test_a_run_that_is_stopped_goes_on_and_ends_with_its_result(folder, started, rft):
    out = RunFolder(folder / "out")
    # Stopped by SIGTERM: a checkpoint, exit code 75, and nobody left.
    first = started(folder, **pause_after(1, folder))
    wait_until(lambda: steps(folder) >= 1 or first.poll() is not None)
    below = descendants(first.pid)
    assert {"rft_trainer", "rft_reward"} <= {name for line in below.values() for name in re.findall(r"rft_\w+", line)}
    first.send_signal(signal.SIGTERM)
    output, errors = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 75, output + errors
    assert "saving a checkpoint; start the same command again to go on" in output
    assert "Traceback" not in errors
    wait_until(lambda: not any(map(alive, below)))
    assert list(out.checkpoints.glob("step-*/complete.json"))
    assert "note: ignored on this machine: spec.endpoint" in errors

    # The same command goes on from there; a reward server that dies comes back.
    second = started(folder)
    wait_until(lambda: "rft_trainer" in str(descendants(second.pid)) or second.poll() is not None)
    server = next(pid for pid, line in descendants(second.pid).items() if re.match(r"\S+ -m rft_reward .*share", line))
    os.kill(server, signal.SIGKILL)
    output, errors = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, output + errors
    assert "the reward server of share had ended and was started again" in output
    assert "step 8/8 · reward " in output
    result = json.loads(output.splitlines()[-1])
    assert result.keys() == {
        "job", "baselineReward", "tunedReward", "gain", "interval", "prompts", "heldOut", "bestStep", "steps",
        "seconds", "output", "rewardHackingSuspected",
    }  # fmt: skip
    assert (result["job"], result["steps"], result["heldOut"], result["output"]) == ("digits", 8, "test", str(out.path))
    assert result["interval"][0] <= result["gain"] <= result["interval"][1]
    assert result["rewardHackingSuspected"] is None  # too few validation prompts
    lines = [json.loads(line) for line in out.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [0, 4, 8]
    assert all(line["shadows"]["brief"]["failed"] == 0 for line in lines)
    assert "shadow brief" in output
    assert out.curves.with_suffix(".svg").exists()
    assert out.best.is_dir()

    # A finished run is shown, not repeated.
    again = rft("run", folder / "job.yaml")
    assert again.returncode == 0
    assert "This run is finished" in again.stdout
    assert json.loads(again.stdout.splitlines()[-1]) == result
    config = TrainerConfig.model_validate_json(out.config.read_bytes())
    assert config.model == str((folder / "model").resolve())
    assert Path(config.data.validation[0].uri).parent.parent == out.path / ".inputs"

    # The report says when it is not about what is there now.
    test_file, summary = folder / "test.jsonl", out.summary.read_bytes()
    measured = test_file.read_bytes()
    tiny.write_jsonl(test_file, tiny.digits_rows(6, 1, seed=3))
    stale = rft("run", folder / "job.yaml")
    assert stale.returncode == 0, stale.stderr
    assert "This run is finished" in stale.stdout
    assert "This report is of what was measured, which is not what is there now." in stale.stdout
    assert f"\n  {test_file} (test/digits)\n" in stale.stdout
    assert "choose another folder (--output)" in stale.stdout
    changed = [f"{test_file} (test/digits)"]
    assert json.loads(stale.stdout.splitlines()[-1]) == {**result, "changedInputs": changed}
    assert out.summary.read_bytes() == summary
    (folder / "model").rename(folder / "moved")
    unknown = rft("run", folder / "job.yaml")
    (folder / "moved").rename(folder / "model")
    test_file.write_bytes(measured)
    assert unknown.returncode == 10, "as without a run: the manifest names a model that is not there"

    # What does not make it another run is no reason to refuse: it is shown as before.
    change(folder, "microBatchSize: 8", "microBatchSize: 4")
    change(folder, "metadata: {name: brief}\nspec:\n", "metadata: {name: brief}\nspec:\n  timeout: 5m\n")
    assert rft("run", folder / "job.yaml").returncode == 0

    # A tracker that it gets afterwards is sent everything.
    change(folder, "output: {uri: out}", "output: {uri: out}\n  trackers: [{tensorboard: {}}]")
    said = f"lines of metrics.jsonl and the result have not reached TensorBoard; 'rft track {out.path}' sends what is"
    assert said in rft("run", folder / "job.yaml").stdout
    assert "TensorBoard has all of this run" in rft("track", out.path).stdout
    assert said not in rft("run", folder / "job.yaml").stdout

    # Another configuration is not mixed in.
    change(folder, '"1e-3"', '"1e-4"')
    change(folder, "right + digits", "2 * right + digits")
    other = rft("run", folder / "job.yaml")
    assert other.returncode == 15
    assert "hyperparameters.learningRate: 0.001 before, 0.0001 now" in other.stderr
    assert "rewards.share.digest" in other.stderr
    assert "--output" in other.stderr

    # What the run stored can be scored again.
    unclear = rft("score", folder / "job.yaml", out.rollout(1))
    assert "it defines share, brief; choose one with --name" in unclear.stderr
    scored = rft("score", folder / "job.yaml", out.rollout(1), "--name", "share")
    assert scored.returncode == 0, scored.stderr
    assert "32 completions" in scored.stdout


def test_a_run_is_not_resumed_with_other_test_prompts(folder, started, rft):
    first = started(folder, **pause_after(1, folder))
    wait_until(lambda: steps(folder) >= 1 or first.poll() is not None)
    first.send_signal(signal.SIGTERM)
    output, errors = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 75, output + errors
    provenance = RunFolder(folder / "out").provenance.read_bytes()
    tiny.write_jsonl(folder / "test.jsonl", tiny.digits_rows(6, 1, seed=3))
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 11, result.stdout + result.stderr
    assert f"  {folder / 'test.jsonl'} (test/digits)\n" in result.stderr
    assert "Restore what was there" in result.stderr
    assert RunFolder(folder / "out").provenance.read_bytes() == provenance


def test_model_and_data_may_be_in_an_object_store(folder, model, rft, s3, monkeypatch):
    bucket = s3.make_bucket("local-runs")
    shutil.copytree(model, bucket / "model")
    (folder / "train.jsonl").rename(bucket / "train.jsonl")
    change(folder, "uri: model}", 'uri: "s3://local-runs/model"}')
    change(folder, "uri: train.jsonl", 'uri: "s3://local-runs/train.jsonl"')
    change(folder, "maxSteps: 8", "maxSteps: 1")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["steps"] == 1
    config = TrainerConfig.model_validate_json(RunFolder(folder / "out").config.read_bytes())
    assert config.model == "s3://local-runs/model"

    # The report of a finished run needs no store, and says what it does not know.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    again = rft("run", folder / "job.yaml")
    assert again.returncode == 0, again.stderr
    assert "Whether model and data are still the same could not be found out: cannot list s3://" in again.stdout
    assert "have changed" not in again.stdout
    assert json.loads(again.stdout.splitlines()[-1])["changedInputs"] is None


def test_nothing_outlives_a_killed_command(folder, started):
    process = started(folder)
    wait_until(lambda: "rft_trainer" in str(descendants(process.pid)) or process.poll() is not None)
    below = descendants(process.pid)
    assert "rft_reward" in str(below)
    process.kill()
    wait_until(lambda: not any(map(alive, below)))


def test_the_trainers_message_and_code_are_passed_on(folder, rft):
    (folder / "train.jsonl").write_text('{"messages": []}\n{"messages": 3}\n', encoding="utf-8")
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 11, result.stderr
    assert "train.jsonl" in result.stderr
    assert "Traceback" not in result.stderr
    assert not RunFolder(folder / "out").metrics.exists()


def test_a_reward_that_fails_its_tests_stops_before_training(folder, rft):
    change(folder, 'minimum: "1"', 'maximum: "0.5"')
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 14
    assert "test 1 (spec.tests[0]): expected a reward of at most 0.5, got 1" in result.stderr
    assert not (folder / "out" / "trainer.log").exists()


def test_wrong_manifests_are_reported_like_validate_does(folder, rft):
    change(folder, '"1e-3"', "0.001")
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 10
    assert "job.yaml:12: spec.hyperparameters.learningRate: must be a string" in result.stderr


def test_what_only_a_cluster_can_do_is_refused_at_once(folder, rft):
    change(folder, "uri: train.jsonl", 'uri: "pvc://claim/train.jsonl"')
    change(folder, "uri: out", 'uri: "pvc://claim/out"')
    change(folder, "gpusPerNode: 0", "gpusPerNode: 0, nodes: 2")
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 10
    assert (
        "job.yaml:7: spec.data.train[0].uri: pvc:// works in a cluster; on this machine, set a path\n" in result.stderr
    )
    assert "spec.output.uri: pvc:// works in a cluster; on this machine, set a path (or give --output)" in result.stderr
    assert "spec.compute.nodes: must be 1 on this machine" in result.stderr
    assert "spec.output.uri" not in rft("run", folder / "job.yaml", "--output", folder / "x").stderr


def test_the_job_to_run_has_to_be_clear(folder, rft):
    second = folder / "second.yaml"
    second.write_text(JOB.partition("---\n")[0].replace("name: digits}\nspec", "name: other}\nspec"), encoding="utf-8")
    result = rft("run", folder / "job.yaml", second)
    assert result.returncode == 10
    assert "choose one with --job: digits, other" in result.stderr
    assert "there is no RFTJob nobody" in rft("run", folder / "job.yaml", second, "--job", "nobody").stderr
    reward = folder / "reward.yaml"
    reward.write_text(JOB.split("---\n", 1)[1], encoding="utf-8")
    assert "there is no RFTJob in the given files" in rft("run", reward).stderr


def test_an_output_that_cannot_be_written(folder, rft):
    (folder / "out").write_text("a file", encoding="utf-8")
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 15
    assert f"the output folder {folder}/out cannot be written: " in result.stderr


def test_two_runs_do_not_share_a_folder(folder, rft):
    (folder / "out").mkdir()
    with (folder / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("123")
        lock.flush()
        result = rft("run", folder / "job.yaml")
    assert result.returncode == 15
    assert "another rft run (process 123) is working in" in result.stderr


@pytest.mark.parametrize("stand_in", [Path.symlink_to, Path.hardlink_to])
def test_a_link_in_the_place_of_the_lock_is_not_written_through(folder, rft, stand_in):
    secret = folder / "secret"
    secret.write_text("precious", encoding="utf-8")
    (folder / "out").mkdir()
    stand_in(folder / "out" / ".lock", secret)
    result = rft("run", folder / "job.yaml")
    assert (result.returncode, secret.read_text(encoding="utf-8")) == (15, "precious")
    assert re.search(r"cannot be written: (is a symbolic link|has a second name)", result.stderr)


@pytest.mark.parametrize("name", ["trainer.log", "reward-share.log"])
def test_a_link_in_the_place_of_a_log_is_not_written_through(folder, rft, name):
    secret = folder / "secret"
    secret.write_text("precious", encoding="utf-8")
    (folder / "out").mkdir()
    (folder / "out" / name).symlink_to(secret)
    result = rft("run", folder / "job.yaml")
    assert (result.returncode, secret.read_text(encoding="utf-8")) == (15, "precious")
    assert f"{name} cannot be written: is a symbolic link, which is not written through" in result.stderr


def test_a_folder_with_something_else_called_job_json(folder, rft):
    (folder / "out").mkdir()
    (folder / "out" / "job.json").write_text("[]", encoding="utf-8")
    result = rft("run", folder / "job.yaml")
    assert result.returncode == 15
    assert "job.json cannot be read" in result.stderr
