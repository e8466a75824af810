"""What trackers get of a run: every point once, whatever is killed or away, from MLflow's server and TensorBoard."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from support.finished_runs import train_metrics, write_metrics
from support.mlflow_server import tracking_server
from support.patience import wait_until
from support.tracked import (
    curves,
    follow,
    in_single_precision,
    mlflow_client,
    mlflow_points,
    mlflow_runs,
    points_of,
    tensorboard,
    tensorboard_points,
    tracked_run,
)
from support.trainer import TrainerProgram, hyperparameters, job_spec, pause_after, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.run_folder import RunFolder
from rft_api.termination import parse_result
from rft_api.tracker_state import missing_sentences, read_state
from rft_cli.stage_display import StageDisplay
from rft_cli.track import track
from rft_trainer.trackers import follower as follower_module
from rft_trainer.trackers.__main__ import connect
from rft_trainer.trackers.mlflow import _key
from rft_trainer.trackers.processes import check_trackers


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with tracking_server(tmp_path_factory.mktemp("mlflow")) as started:
        yield started


class Case:
    """One of the trackers, with a way to read what it has."""

    def __init__(self, kind, server, tmp_path):
        self.kind = kind
        self.url = server.url
        self.experiment = tmp_path.name
        self.spec = {
            "tensorboard": {"tensorboard": {}},
            "mlflow": {"mlflow": {"uri": server.url, "experiment": self.experiment}},
        }[kind]

    def expected(self, folder):
        points = curves(points_of(folder))
        return in_single_precision(points) if self.kind == "tensorboard" else points

    def points(self, folder):
        if self.kind == "tensorboard":
            return curves(tensorboard_points(folder))
        return curves(mlflow_points(self.url, mlflow_runs(self.url, self.experiment)[0]))


@pytest.fixture(params=["tensorboard", "mlflow"])
def case(request, server, tmp_path):
    return Case(request.param, server, tmp_path)


def test_curves_are_those_of_metrics_jsonl(case, tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", case.spec)
    assert follow(folder, tracker)
    assert case.points(folder) == case.expected(folder)
    assert len(case.points(folder)["train/reward"]) == 60
    assert not list(missing_sentences(folder, [tracker], "RUN"))
    # A second start sends nothing again.
    assert follow(folder, tracker)
    assert case.points(folder) == case.expected(folder)


class Killed(BaseException):
    """The end of a process, in the middle of something."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_ends_while_it_sends_neither_loses_nor_repeats_a_line(case, tmp_path, monkeypatch, moment):
    """Before: the lines are not sent, though their end was written down; after: they are, and it was not written."""
    monkeypatch.setattr(follower_module, "LINES_AT_ONCE", 7)
    folder, [tracker] = tracked_run(tmp_path / "run", case.spec)
    for allowed in (0, 1, 2):
        client = connect(folder, tracker)
        send, calls = client.send, []

        def send_and_end(lines, send=send, calls=calls, allowed=allowed):
            if moment == "after":
                send(lines)
            if len(calls) == allowed:
                raise Killed
            calls.append(lines)
            if moment == "before":
                send(lines)

        client.send = send_and_end
        with pytest.raises(Killed):
            follow(folder, tracker, client)
    assert follow(folder, tracker)
    assert case.points(folder) == case.expected(folder)
    assert read_state(folder, tracker).generation == 1


def test_killed_processes_neither_lose_nor_repeat_a_line_of_a_run_that_goes_on(tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", {"tensorboard": {}})
    summary = folder.summary.read_bytes()
    folder.summary.unlink()
    folder.metrics.unlink()
    command = [sys.executable, "-m", "rft_trainer.trackers", str(folder.path), tracker.model_dump_json(by_alias=True)]
    chance = random.Random(3)
    step = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        reached = step + 20

        def is_sent(lines=step + 10):
            return read_state(folder, tracker).sent.lines >= lines

        while step < reached:
            step += 1
            with folder.metrics.open("a", encoding="utf-8") as file:
                text = train_metrics(step).model_dump_json(by_alias=True)
                # Half a line is no line yet.
                file.write(text[:50])
                file.flush()
                file.write(f"{text[50:]}\n")
        wait_until(is_sent, watch=lambda: read_state(folder, tracker).sent.lines)
        time.sleep(chance.random())
        process.kill()
        process.wait()
    folder.summary.write_bytes(summary)
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    points = curves(tensorboard_points(folder))
    assert points == in_single_precision(curves(points_of(folder)))
    assert len(points["train/reward"]) == 60


def test_steps_that_a_resumed_run_makes_again_are_there_once_with_their_new_values(case, tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", case.spec)
    summary = folder.summary.read_bytes()
    folder.summary.unlink()
    write_metrics(folder, 25)
    assert follow(folder, tracker, code=ExitCode.INTERRUPTED)
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= 20]
    again = [
        train_metrics(step).model_copy(update={"reward": 0.5 + step}).model_dump_json(by_alias=True)
        for step in range(21, 31)
    ]
    folder.metrics.write_text("\n".join([*kept, *again]) + "\n", encoding="utf-8")
    folder.summary.write_bytes(summary)
    assert follow(folder, tracker)
    assert case.points(folder) == case.expected(folder)
    assert dict(case.points(folder)["train/reward"])[23] == 23.5
    if case.kind == "mlflow":
        new, old = mlflow_runs(case.url, case.experiment)
        assert old.data.tags["rft.replaced"] == "by generation 2"
        assert (old.info.status, new.info.status) == ("KILLED", "FINISHED")
        assert new.info.run_name == "amounts (2)"


def test_a_state_that_a_lost_machine_takes_along_repeats_nothing(case, tmp_path):
    """The copy of the folder is older than what was sent, and the lost steps are made again."""
    folder, [tracker] = tracked_run(tmp_path / "run", case.spec)
    write_metrics(folder, 20)
    folder.summary.unlink()
    assert follow(folder, tracker, code=ExitCode.INTERRUPTED)
    copy = folder.tracker(tracker.key).read_bytes()
    write_metrics(folder, 30)
    assert follow(folder, tracker, code=ExitCode.INTERRUPTED)
    folder.tracker(tracker.key).write_bytes(copy)
    write_metrics(folder, 20)
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(train_metrics(21).model_copy(update={"reward": 0.25}).model_dump_json(by_alias=True) + "\n")
    assert follow(folder, tracker, code=ExitCode.INTERRUPTED)
    assert case.points(folder) == case.expected(folder)


def test_what_a_tracker_that_is_away_has_missed_is_said_and_sent_later(tmp_path, tmp_path_factory):
    data = tmp_path_factory.mktemp("away")
    with tracking_server(data) as server:
        folder, [tracker] = tracked_run(tmp_path / "run", {"mlflow": {"uri": server.url}})
        server.stop()
        assert not follow(folder, tracker)
        [sentence] = missing_sentences(folder, [tracker], "RUN")
        said = (
            f"67 lines of metrics.jsonl and the result have not reached MLflow at {server.url}; 'rft track RUN' sends"
        )
        assert sentence.startswith(f"{said} what is missing. The reason: API request to {server.url}")
        assert "\n" not in sentence
        server.start()
        done = subprocess.run(
            [sys.executable, "-m", "rft_cli.main", "track", str(folder.path), "--yes"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        [run] = mlflow_runs(server.url)
        assert f"MLflow at {server.url} has all of this run: {server.url}/#/experiments/" in done.stdout
        assert run.info.run_id in done.stdout
        assert curves(mlflow_points(server.url, run)) == curves(points_of(folder))


def test_a_run_in_an_object_store_is_sent_as_well(s3, server, tmp_path):
    bucket = s3.make_bucket("tracked")
    (bucket / "runs").mkdir()
    folder, [tracker] = tracked_run(bucket / "runs/one", {"mlflow": {"uri": server.url, "experiment": "stored"}})
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "rft_cli.main", "track", "s3://tracked/runs/one/", "--yes"],
            capture_output=True, text=True, env={**os.environ, **s3.environment()},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"MLflow at {server.url} has all of this run" in done.stdout
        [run] = mlflow_runs(server.url, "stored")
        assert curves(mlflow_points(server.url, run)) == curves(points_of(folder))
        state = read_state(folder, tracker)
        assert (state.sent.lines, state.has_result) == (67, True)


def test_sending_to_a_tracker_says_how_many_lines_it_has(server, tmp_path, monkeypatch):
    folder, [tracker] = tracked_run(tmp_path / "run", {"mlflow": {"uri": server.url, "experiment": "counted"}})
    stages = []
    update = StageDisplay.update

    def recorded(stage, text, *amounts, **details):
        stages.append((text, *amounts))
        update(stage, text, *amounts, **details)

    monkeypatch.setattr(StageDisplay, "update", recorded)
    track(str(folder.path), Console(file=io.StringIO()), is_agreed=True)
    assert {(text, total, unit) for text, _, total, unit in stages} == {
        (f"sending the run to {tracker.description}", 67, "lines of metrics.jsonl")
    }


def test_mlflow_has_configuration_result_and_samples(server, tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", {"mlflow": {"uri": server.url, "experiment": "contents"}})
    assert follow(folder, tracker)
    [run] = mlflow_runs(server.url, "contents")
    assert run.info.status == "FINISHED"
    assert run.data.params["hyperparameters.batchSize"] == "8"
    assert run.data.params["data.train.0.uri"] == "/data/train.jsonl"
    assert not any("127.0.0.1:1" in value for value in run.data.params.values())
    assert run.data.metrics["result/tuned/reward"] == 0.75
    assert run.data.metrics["result/gain/low"] == 0.1
    client = mlflow_client(server.url)
    file = client.download_artifacts(run.info.run_id, "samples/before-and-after.json", str(tmp_path))
    table = json.loads(Path(file).read_text(encoding="utf-8"))
    assert table["columns"] == [
        "source", "prompt", "referenceAnswer", "base", "baseReward", "tuned", "tunedReward",
    ]  # fmt: skip
    assert table["data"][3][3:] == ["It cost 3 dollars, I think.", 0.5, '{"value": "3", "unit": "$"}', 0.0]
    shown = [table["path"] for table in json.loads(run.data.tags["mlflow.loggedArtifacts"])]
    assert shown == ["result.json", "samples/before-and-after.json"]


def test_tensorboard_has_configuration_result_and_samples(tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", {"tensorboard": {}})
    assert follow(folder, tracker)
    reader = tensorboard(folder)

    def text(tag):
        [event] = reader.Tensors(tag)
        return event.tensor_proto.string_val[0].decode()

    assert "| hyperparameters.batchSize | 8 |" in text("configuration")
    assert "| reward | 0.4500 | 0.5000 | 0.7500 |" in text("result")
    assert "It cost 3 dollars, I think." in text("samples/before-and-after")


def test_without_samples_no_texts_leave_the_run(tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", {"tensorboard": {}, "samples": 0})
    assert follow(folder, tracker)
    written = b"".join(file.read_bytes() for file in folder.tensorboard.iterdir())
    assert b"It cost" not in written
    assert b"Ann paid" not in written


def test_other_names_of_components_stay_other_names_in_mlflow():
    names = ["train/components/50%", "train/components/50:25:", "train/components/a//b", "train/components/a/b"]
    names += [
        "train/components/a/./b",
        "train/components/a/../b",
        "train/components/ä#1",
        "train/components/" + "x" * 300,
    ]
    names += ["train/components/" + "x" * 301, "train/reward"]
    keys = [_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert keys[-1] == "train/reward"
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    for key in keys:
        _validate_metric_name(key)
        _validate_length_limit("Metric name", 250, key)


def test_a_tracker_without_its_package_or_credential_is_refused_before_training(tmp_path, monkeypatch):
    spec = job_spec(
        tmp_path, tmp_path, tmp_path, trackers=[{"tensorboard": {}}, {"mlflow": {"uri": "http://m", "tokenKey": "KEY"}}]
    )
    config = render(spec, tmp_path, "http://x", None)
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(RunError, match=r"spec\.trackers\[1\]\.mlflow\.tokenKey: there is no variable KEY"):
        check_trackers(config)
    monkeypatch.setenv("KEY", "secret")
    check_trackers(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"spec\.trackers\[0\]\.tensorboard: the package .* pip install 'rft-trainer"):
        check_trackers(config)


def test_a_run_whose_trainer_is_killed_and_whose_tracker_is_away(model, data, rewards, tmp_path, tmp_path_factory):
    """The run succeeds, says what is missing in its log and in its termination message, and repeats no step."""
    with tracking_server(tmp_path_factory.mktemp("run")) as server:
        server.stop()
        spec = job_spec(
            model, data, tmp_path / "run", hyperparameters=hyperparameters(evalInterval=4),
            trackers=[{"tensorboard": {}}, {"mlflow": {"uri": server.url}}],
        )  # fmt: skip
        config = render(spec, tmp_path / "manifest", rewards.url, rewards.token_file)
        folder = RunFolder(config.output)
        first = TrainerProgram(config, tmp_path / "first", free_port(), environment=pause_after(5, tmp_path))
        first.wait_for_line(5)
        tracker = config.trackers[0]
        lines = len(first.metrics())
        wait_until(lambda: read_state(folder, tracker).sent.lines == lines)
        first.kill()
        end = tmp_path / "end"
        second = TrainerProgram(config, tmp_path / "second", free_port(), environment={"RFT_TERMINATION_LOG": str(end)})
        second.succeed()
        [sentence] = missing_sentences(folder, config.trackers, str(folder.path))
        assert sentence in second.log
        assert parse_result(end.read_text(encoding="utf-8")).not_tracked == [sentence]
        points = curves(tensorboard_points(folder))
        assert points == in_single_precision(curves(points_of(folder)))
        assert [step for step, _ in points["train/reward"]] == [1, 2, 3, 4, 5, 6]
        server.start()
        assert follow(folder, config.trackers[1])
        [run] = mlflow_runs(server.url)
        assert curves(mlflow_points(server.url, run)) == curves(points_of(folder))
        artifacts = {file.path for file in mlflow_client(server.url).list_artifacts(run.info.run_id, "samples")}
        assert artifacts == {f"samples/{name}.json" for name in ("step-4", "step-6", "before-and-after")}
