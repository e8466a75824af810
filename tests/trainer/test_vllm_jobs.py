"""Whole jobs whose completions all come from vLLM, from the baseline to the table of the tuned model.

Each start of a vLLM takes longer than such a job, and these jobs start three.
"""

from __future__ import annotations

import shutil

import psutil
import pyarrow.parquet as pq
import pytest
from support.patience import wait_until
from support.tiny import write_model
from support.trainer import TrainerProgram, curve, hyperparameters, job_spec, pause_after, render

from rft_api.ports import free_port
from rft_api.run_folder import RunFolder

STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    return write_model(tmp_path_factory.mktemp("base") / "tiny", hidden=128, tied=False)


@pytest.fixture(scope="module")
def start(base, data, rewards):
    """Starts the job in a folder: two processes share a server, have parts of the adapter each, and sample ahead."""

    def start(folder, output, environment=None):
        spec = job_spec(
            base,
            data,
            output,
            tuning={"type": "LoRA", "rank": 8},
            hyperparameters=hyperparameters(maxSteps=STEPS, learningRate="2e-2"),
            compute={
                "gpusPerNode": 0,
                "processesPerNode": 2,
                "deepspeed": {"zeroStage": 3},
                "rollouts": {"engine": "vLLM", "overlap": 1},
            },
        )
        config = render(spec, folder, rewards.url, rewards.token_file)
        return TrainerProgram(config, folder, free_port(), environment=environment)

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("undisturbed")
    run = start(folder, folder / "out")
    run.succeed()
    return run


def test_vllm_and_the_trainer_compute_the_same_in_each_step_that_is_not_sampled_ahead(undisturbed):
    steps = [line for line in undisturbed.metrics() if line["split"] == "train"]
    assert len(steps) == STEPS
    # A validation precedes each odd step, across which nothing is sampled ahead.
    for own, ahead in zip(steps[::2], steps[1::2], strict=True):
        assert own["importanceRatioMean"] == pytest.approx(1, abs=1e-3)
        assert own["logprobDifferenceMax"] < 1e-4
        assert own["importanceRatioClipped"] == 0
        assert ahead["logprobDifferenceMax"] > 1e-4
    assert sum(step["gradientNorm"] for step in steps) > 0


def test_a_job_ends_with_the_table_of_the_trainers_own_process(tmp_path, undisturbed, base, data, rewards):
    """The evaluations, made again by one process of the trainer from the files that the job has exported, are equal."""
    again = RunFolder(tmp_path / "out")
    shutil.copytree(undisturbed.folder.path, again.path)
    again.summary.unlink()
    shutil.rmtree(again.evaluation("base").parent)
    spec = job_spec(
        base,
        data,
        again.path,
        tuning={"type": "LoRA", "rank": 8},
        hyperparameters=hyperparameters(maxSteps=STEPS, learningRate="2e-2"),
    )
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    again.config.write_text(config.model_dump_json(by_alias=True), encoding="utf-8")
    repeated = TrainerProgram(config, tmp_path, free_port())
    summary = repeated.succeed()
    assert table(repeated.folder) == table(undisturbed.folder)
    base_rows, tuned_rows = table(undisturbed.folder).values()
    assert base_rows != tuned_rows
    assert summary.model_copy(update={"seconds": {}}) == undisturbed.succeed().model_copy(update={"seconds": {}})


def test_a_killed_trainer_takes_its_servers_along_and_goes_on_exactly(tmp_path, start, undisturbed):
    run = start(tmp_path / "killed", tmp_path / "out", pause_after(3, tmp_path))
    run.wait_for_line(3)
    started = psutil.Process(run.process.pid).children(recursive=True)
    (keeper,) = [process for process in started if any("keeper" in word for word in process.cmdline())]
    servers = keeper.children(recursive=True)
    assert len(servers) >= 3
    run.kill()
    wait_until(lambda: not any(process.is_running() for process in servers))
    resumed = start(tmp_path / "resumed", tmp_path / "out")
    resumed.succeed()
    assert curve(resumed.metrics()) == curve(undisturbed.metrics())
    assert table(resumed.folder) == table(undisturbed.folder)


def table(folder):
    return {
        stage: [(row["prompt"], row["completion"]) for row in pq.read_table(folder.evaluation(stage)).to_pylist()]
        for stage in ("base", "tuned")
    }
