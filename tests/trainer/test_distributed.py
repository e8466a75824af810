"""Two processes that train together under DeepSpeed: the same numbers at every ZeRO stage, and exactly resumed."""

import functools
import signal

import psutil
import pytest
import torch
from safetensors.torch import load_file
from support.trainer import (
    TrainerProgram,
    assert_whole_adapter,
    curve,
    end_pause,
    hyperparameters,
    job_spec,
    pause_after,
    render,
)

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port

CLOSE = ("reward", "loss", "gradientNorm", "policyEntropy", "episodeLength", "advantageStd", "klDivergence", "tokens")


def start(spec, folder, rewards, **options):
    return TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port(), **options)


def two_processes(stage):
    return {"gpusPerNode": 0, "processesPerNode": 2, "deepspeed": {"zeroStage": stage}}


# At these stages each process makes several passes a step, which differ in size, at the others one.
BY_TOKENS = (2, 3)
# Each of them changes the weights by more than the tests tolerate.
OPTIMIZER = {"weightDecay": "0.5", "adamBeta1": "0.7", "adamBeta2": "0.9", "adamEpsilon": "1e-4", "warmupRatio": "0.3"}


def spec_at(stage, model, data, output, **changes):
    split = {"microBatchSize": None, "tokensPerMicroBatch": 40} if stage in BY_TOKENS else {"microBatchSize": 8}
    learning = hyperparameters(**split, **OPTIMIZER, maxSteps=7, klCoefficient="0.02")
    return job_spec(model, data, output, compute=two_processes(stage), hyperparameters=learning, **changes)


@pytest.fixture(scope="module")
def run_at(tmp_path_factory, model, data, rewards):
    """The summary and the run of a ZeRO stage, each made once."""

    @functools.cache
    def run(stage):
        folder = tmp_path_factory.mktemp(f"stage-{stage}")
        program = start(spec_at(stage, model, data, folder / "out"), folder, rewards)
        return program.succeed(), program

    return run


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_same_numbers_at_every_stage(run_at, stage):
    expected, reference = run_at(0)
    summary, run = run_at(stage)
    lines, others = curve(run.metrics()), curve(reference.metrics())
    assert [(line["step"], line["split"]) for line in lines] == [(line["step"], line["split"]) for line in others]
    for line, other in zip(lines, others, strict=True):
        for name in CLOSE:
            if other.get(name) is not None:
                assert line[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), f"{name} of step {line['step']}"
    assert summary.prompts == 24
    assert summary.tuned.reward == pytest.approx(expected.tuned.reward, abs=1e-4)
    weights = load_file(run.folder.best / "model.safetensors")
    for name, weight in load_file(reference.folder.best / "model.safetensors").items():
        assert weights[name].shape == weight.shape, f"{name} was exported in part"
        assert weights[name].sub(weight).abs().max() < 1e-4, name


@pytest.mark.parametrize("stage", [0, 2])
def test_a_gradient_is_clipped_to_its_largest_norm(tmp_path, model, data, rewards, stage):
    """At stage 0 by the trainer, at others by DeepSpeed; the norm that is recorded is that before."""
    spec = job_spec(
        model,
        data,
        tmp_path / "out",
        compute=two_processes(stage),
        # AdamW's first step is the gradient, times the learning rate, where its elements are far below adamEpsilon.
        hyperparameters=hyperparameters(maxSteps=1, learningRate="0.1", adamEpsilon="1", maximumGradientNorm="0.01"),
    )
    run = start(spec, tmp_path / "run", rewards)
    run.succeed()
    (line,) = [line for line in run.metrics() if line["split"] == "train"]
    assert line["gradientNorm"] > 0.1
    before, after = (load_file(folder / "model.safetensors") for folder in (model, run.folder.best))
    change = torch.cat([(after[name] - weight).flatten() for name, weight in before.items()])
    assert change.norm().item() == pytest.approx(0.1 * 0.01, rel=0.02)


def test_an_adapter_with_warmup_without_zero(tmp_path, model, data, rewards):
    spec = spec_at(
        0,
        model,
        data,
        tmp_path / "out",
        tuning={"type": "LoRA", "rank": 4},
        warmup={"data": [{"name": "w", "uri": str(data / "warmup.jsonl")}], "epochs": 1, "learningRate": "1e-3"},
    )
    run = start(spec, tmp_path / "run", rewards)
    assert run.succeed().warmup is not None
    assert_whole_adapter(run.folder)


def test_an_adapter_on_the_last_layer_learns_the_same_where_the_other_layers_are_left_out_of_the_update(
    tmp_path, model, data, rewards
):
    """At stage 2 each process knows from generation what the first layer computes; at stage 3 it is computed again."""
    curves = {}
    for stage in (2, 3):
        tuning = {"type": "LoRA", "rank": 4, "lastLayers": 1}
        spec = spec_at(stage, model, data, tmp_path / f"out-{stage}", tuning=tuning)
        run = start(spec, tmp_path / f"run-{stage}", rewards)
        run.succeed()
        assert ("frozen layers whose output the update takes from generation: 1" in run.log) == (stage == 2)
        curves[stage] = curve(run.metrics())
    for line, other in zip(curves[2], curves[3], strict=True):
        for name in CLOSE:
            if other.get(name) is not None:
                assert line[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), f"{name} of step {line['step']}"


def test_one_process_dies_then_all_and_the_curve_is_the_undisturbed_one(tmp_path, model, data, rewards, run_at):
    summary, undisturbed = run_at(2)
    spec = spec_at(2, model, data, tmp_path / "out")
    run = start(spec, tmp_path / "run", rewards, environment=pause_after(3, tmp_path / "first"))
    run.wait_for_line(3)
    (worker,) = [p for p in psutil.Process(run.process.pid).children() if p.environ().get("RANK") == "1"]
    worker.send_signal(signal.SIGKILL)
    end_pause(tmp_path / "first")
    assert run.wait() == ExitCode.UNEXPECTED
    run = start(spec, tmp_path / "run", rewards, environment=pause_after(5, tmp_path / "second"))
    run.wait_for_line(5)  # step 4's checkpoint is complete, step 5 will be done again
    run.kill()
    resumed = start(spec, tmp_path / "run", rewards)
    assert resumed.succeed().tuned == summary.tuned
    assert "going on from step 4" in resumed.log
    assert curve(resumed.metrics()) == curve(undisturbed.metrics())
    ours = load_file(resumed.folder.best / "model.safetensors")
    for name, weight in load_file(undisturbed.folder.best / "model.safetensors").items():
        assert ours[name].equal(weight), f"{name} differs"


@pytest.mark.parametrize("tokens", [40, None], ids=["several passes a step", "one pass a step"])
def test_fewer_validation_prompts_than_processes_under_zero_3(tmp_path, model, data, rewards, tokens):
    """Every process gathers the weights equally often, also one that has no prompt: otherwise all wait for ever.

    After a single pass DeepSpeed still compares the modules of the passes between the processes.
    """
    one = tmp_path / "validation.jsonl"
    one.write_text((data / "validation.jsonl").read_text().splitlines()[0] + "\n")
    spec = spec_at(3, model, data, tmp_path / "out")
    spec["data"]["validation"][0]["uri"] = str(one)
    spec["hyperparameters"] |= {"maxSteps": 1, "tokensPerMicroBatch": tokens}
    run = start(spec, tmp_path / "run", rewards)
    run.succeed()
    assert [line["step"] for line in run.metrics() if line["split"] == "validation"] == [1]
