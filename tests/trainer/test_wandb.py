"""What Weights & Biases gets of a run: offline, read back from the files that it would send."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from support import wandb_files
from support.finished_runs import write_metrics
from support.patience import wait_until
from support.tracked import curves, follow, points_of, tracked_run

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.tracker_state import Position, missing_sentences, read_state

OFFLINE = {"wandb": {"project": "amounts", "mode": "Offline"}}


def written(folder):
    [file] = folder.wandb.glob("offline-run-*/run-*.wandb")
    return file


def test_the_files_have_every_point_once_with_configuration_result_and_samples(tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", OFFLINE)
    summary = folder.summary.read_bytes()
    folder.summary.unlink()
    write_metrics(folder, 25)
    assert follow(folder, tracker, code=ExitCode.INTERRUPTED)
    write_metrics(folder, 60)
    folder.summary.write_bytes(summary)
    assert follow(folder, tracker)
    file = written(folder)
    assert curves(wandb_files.points(file)) == curves(points_of(folder))
    assert wandb_files.configuration(file)["hyperparameters.batchSize"] == "8"
    rows = wandb_files.rows(file)
    assert [row["_step"] for row in rows] == list(range(68))
    assert rows[-1]["result/tuned/reward"] == 0.75
    table = json.loads((file.parent / "files" / rows[-1]["samples/before-and-after/path"]).read_text())
    assert table["data"][3][3:] == ["It cost 3 dollars, I think.", 0.5, '{"value": "3", "unit": "$"}', 0.0]
    assert not list(missing_sentences(folder, [tracker], "RUN"))


def test_a_process_that_ends_in_the_middle_leaves_nothing_behind_that_is_sent_twice(tmp_path):
    folder, [tracker] = tracked_run(tmp_path / "run", OFFLINE)
    summary = folder.summary.read_bytes()
    folder.summary.unlink()
    command = [sys.executable, "-m", "rft_trainer.trackers", str(folder.path), tracker.model_dump_json(by_alias=True)]
    # Processes do not share the one that sends for them, as those of one trainer never do.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    # It has been given all lines, and waits for more.
    wait_until(lambda: (read_state(folder, tracker).sending or Position()).lines == 67, watch=lambda: None)
    process.kill()
    process.wait()
    folder.summary.write_bytes(summary)
    [sentence] = missing_sentences(folder, [tracker], "RUN")
    assert sentence.startswith("67 lines of metrics.jsonl and the result have not reached Weights & Biases (offline); ")
    subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=True)
    assert curves(wandb_files.points(written(folder))) == curves(points_of(folder))


def test_a_server_that_is_away_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "0" * 40)
    address = f"http://127.0.0.1:{free_port()}"
    online = {"wandb": {"project": "amounts", "baseUrl": address, "tokenKey": "KEY"}}
    folder, [tracker] = tracked_run(tmp_path / "run", online)
    monkeypatch.setattr("rft_trainer.trackers.wandb._INIT_SECONDS", 2)
    assert not follow(folder, tracker)
    [sentence] = missing_sentences(folder, [tracker], "RUN")
    assert sentence.startswith(
        f"67 lines of metrics.jsonl and the result have not reached Weights & Biases at {address}"
    )
    assert "0" * 40 not in sentence
