"""Jobs with several rollout servers in a pod, which stand-ins take the place of: a vLLM for each would cost minutes."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter

import psutil
import pytest
from support.rollout_stand_in import hold_file, requests_of
from support.trainer import (
    TrainerProgram,
    curve,
    end_pause,
    hyperparameters,
    job_spec,
    pause_after,
    render,
    stand_in_servers,
)

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.run_folder import CheckpointInfo
from rft_trainer.checkpoints import sampler

SERVERS, GROUPS, SAMPLES, STEPS = 3, 3, 4, 6
COMPLETIONS, LOAD = "/v1/completions", "/v1/load_lora_adapter"


@pytest.fixture(scope="module")
def start(model, data, rewards, tmp_path_factory):
    """Starts the job in a folder: two processes, the second prompt of each step is in part with either of them."""
    validation = tmp_path_factory.mktemp("seven") / "validation.jsonl"
    validation.write_text("".join((data / "validation.jsonl").read_text().splitlines(keepends=True)[:7]))

    def start(folder, output, servers=SERVERS, environment=None):
        spec = job_spec(
            model,
            data,
            output,
            tuning={"type": "LoRA", "rank": 4},
            hyperparameters=hyperparameters(batchSize=GROUPS, microBatchSize=6, maxSteps=STEPS),
            compute={
                "gpusPerNode": 0,
                "processesPerNode": 2,
                "deepspeed": {"zeroStage": 0},
                "rollouts": {"engine": "vLLM", "servers": servers},
            },
        )
        spec["data"]["validation"][0]["uri"] = str(validation)
        config = render(spec, folder, rewards.url, rewards.token_file)
        variables = stand_in_servers(folder) | (environment or {})
        return TrainerProgram(config, folder, free_port(), environment=variables)

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("undisturbed")
    run = start(folder, folder / "out")
    run.succeed()
    return run, folder


def test_the_prompts_of_all_processes_are_dealt_to_the_servers_in_turn(undisturbed):
    """Those of a step as those of an evaluation, in which the second process has one fewer; a group stays together."""
    requests = requests_of(undisturbed[1], COMPLETIONS)
    assert list(requests) == list(range(SERVERS))
    sampled = {number: [body for body in each if body["model"] != "base"] for number, each in requests.items()}
    for step in range(STEPS):
        prompts = [
            Counter(
                tuple(body["prompt"])
                for body in sampled[number]
                if body["model"] == f"policy-v{step}" and body["temperature"] == 1
            )
            for number in range(SERVERS)
        ]
        assert [list(counts.values()) for counts in prompts] == [[SAMPLES]] * SERVERS, f"step {step}: {prompts}"
        assert len(set().union(*prompts)) == GROUPS
    for model, counts in (("policy-v2", [3, 2, 2]), ("policy-v4", [3, 2, 2]), ("tuned", [8, 8, 8])):
        greedy = [
            sum(body["model"] == model and body["temperature"] == 0 for body in each) for each in sampled.values()
        ]
        assert greedy == counts, model


def test_results_do_not_depend_on_the_number_of_servers(tmp_path, start, undisturbed):
    run = start(tmp_path, tmp_path / "out", servers=1)
    summary = run.succeed()
    assert list(requests_of(tmp_path, COMPLETIONS)) == [0]
    assert curve(run.metrics()) == curve(undisturbed[0].metrics())
    assert summary.tuned == undisturbed[0].succeed().tuned


def test_one_of_several_servers_is_killed_and_has_the_versions_again_before_it_answers(tmp_path, start, undisturbed):
    run = start(tmp_path, tmp_path / "out", environment=pause_after(3, tmp_path))
    run.wait_for_line(3)
    servers = {
        process.cmdline()[-3].rpartition("/")[2]: process
        for process in psutil.Process(run.process.pid).children(recursive=True)
        if "rollout_stand_in" in str(process.cmdline()) and "keeper" not in str(process.cmdline())
    }
    assert sorted(servers) == [f"{number}.requests" for number in range(SERVERS)]
    servers["1.requests"].kill()
    end_pause(tmp_path)
    run.succeed()
    assert curve(run.metrics()) == curve(undisturbed[0].metrics())
    loads = {number: [body["lora_name"] for body in each] for number, each in requests_of(tmp_path, LOAD).items()}
    assert loads[0] == loads[2] == [*(f"policy-v{step}" for step in range(STEPS + 1)), "tuned"]
    assert Counter(loads[1]) - Counter(loads[0]), "the killed server was not given its versions again"
    assert set(loads[1]) == set(loads[0])


def hold(folder, **fields):
    hold_file(folder).write_text(json.dumps(fields), encoding="utf-8")


def asked(folder, **fields):
    """Whether a server got a request for a completion with these fields."""
    bodies = [body for each in requests_of(folder, COMPLETIONS).values() for body in each]
    return any(all(body[name] == value for name, value in fields.items()) for body in bodies)


def checkpoint(run, step):
    return CheckpointInfo.model_validate_json((run.folder.checkpoint(step) / "complete.json").read_text())


def test_a_run_that_is_stopped_while_healthy_servers_sample_saves_its_last_step(tmp_path, start, undisturbed):
    """In a validation, and in a step whose checkpoint was not due; then a single process gets the signal."""
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    run = start(first, output, environment=pause_after(1, first))
    run.wait_for_line(1)
    validation = {"model": "policy-v2", "temperature": 0}
    hold(first, **validation)
    end_pause(first)
    run.wait_for(lambda: asked(first, **validation))
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == ExitCode.INTERRUPTED, run.log
    assert "stopped after step 2; its checkpoint is saved" in run.log
    assert checkpoint(run, 2) == CheckpointInfo(step=2, validation_reward=None)

    run = start(second, output, environment=pause_after(3, second))
    run.wait_for_line(3)
    rollouts = {"model": "policy-v3", "temperature": 1}
    hold(second, **rollouts)
    end_pause(second)
    run.wait_for(lambda: asked(second, **rollouts))
    (worker,) = [p for p in psutil.Process(run.process.pid).children() if p.environ().get("RANK") == "1"]
    worker.send_signal(signal.SIGTERM)
    assert run.wait() == ExitCode.INTERRUPTED, run.log
    assert "stopped after step 3; its checkpoint is saved" in run.log
    assert checkpoint(run, 2).validation_reward is not None

    resumed = start(tmp_path / "third", output)
    assert resumed.succeed().tuned == undisturbed[0].succeed().tuned
    assert "going on from step 3" in resumed.log
    assert curve(resumed.metrics()) == curve(undisturbed[0].metrics())


def test_a_run_that_is_stopped_in_its_last_validation_makes_it_when_it_goes_on(tmp_path, start, undisturbed):
    output = tmp_path / "out"
    run = start(tmp_path / "first", output, environment=pause_after(STEPS - 1, tmp_path / "first"))
    run.wait_for_line(STEPS - 1)
    validation = {"model": f"policy-v{STEPS}", "temperature": 0}
    hold(tmp_path / "first", **validation)
    end_pause(tmp_path / "first")
    run.wait_for(lambda: asked(tmp_path / "first", **validation))
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == ExitCode.INTERRUPTED, run.log
    resumed = start(tmp_path / "second", output)
    assert resumed.succeed().model_copy(update={"seconds": {}}) == undisturbed[0].succeed().model_copy(
        update={"seconds": {}}
    )
    assert curve(resumed.metrics()) == curve(undisturbed[0].metrics())


def test_a_run_that_samples_ahead_goes_on_exactly_from_a_periodic_checkpoint(tmp_path, model, data, rewards):
    """After kill -9 from the checkpoint of step 2, and after SIGTERM in a step that was being sampled ahead."""

    def start(name, output, environment=None):
        spec = job_spec(
            model,
            data,
            output,
            tuning={"type": "LoRA", "rank": 4, "dropout": "0.1"},
            hyperparameters=hyperparameters(maxSteps=STEPS, evalInterval=STEPS, learningRate="2e-2"),
            checkpoints={"interval": 2},
            compute={"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "servers": 2, "overlap": 1}},
        )
        folder = tmp_path / name
        variables = stand_in_servers(folder) | (environment or {})
        config = render(spec, folder, rewards.url, rewards.token_file)
        return TrainerProgram(config, folder, free_port(), environment=variables)

    undisturbed = start("undisturbed", tmp_path / "undisturbed/out")
    summary = undisturbed.succeed()

    killed = start("killed", tmp_path / "out", pause_after(3, tmp_path / "killed"))
    killed.wait_for_line(3)
    killed.kill()
    assert sampler(killed.folder.checkpoint(2)).is_dir()

    (tmp_path / "stopped").mkdir()
    hold(tmp_path / "stopped", model="policy-v2")
    stopped = start("stopped", tmp_path / "out", pause_after(3, tmp_path / "stopped"))
    # The line of the killed run goes first.
    stopped.wait_for(lambda: asked(tmp_path / "stopped", model="policy-v2"))
    stopped.wait_for_line(3)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log
    assert "going on from step 2" in stopped.log
    assert "stopped after step 3; its checkpoint is saved" in stopped.log
    assert sampler(stopped.folder.checkpoint(3)).is_dir()

    resumed = start("resumed", tmp_path / "out")
    assert resumed.succeed().tuned == summary.tuned
    assert "going on from step 3" in resumed.log
    assert curve(resumed.metrics()) == curve(undisturbed.metrics())
    shutil.rmtree(tmp_path / "out")
