"""Whole runs of the trainer program on a tiny model: what they leave behind, and how they go on after an end."""

import itertools
import json
import re
import signal

import pyarrow.parquet as pq
from safetensors.torch import load_file
from support.trainer import TrainerProgram, curve, end_pause, hyperparameters, job_spec, pause_after, render
from transformers import AutoModelForCausalLM

from rft_api.exit_codes import ExitCode
from rft_api.ports import free_port
from rft_api.summary import Provenance
from rft_api.trainer_config import TrainerConfig

METRIC_NAMES = {
    "rft_train_reward_mean", "rft_train_reward_component_mean", "rft_train_reward_std",
    "rft_train_episode_length_tokens_mean", "rft_train_gradient_norm", "rft_train_advantage_mean",
    "rft_train_advantage_std", "rft_train_advantage_abs_mean", "rft_train_policy_entropy", "rft_train_kl_divergence",
    "rft_train_zero_variance_group_ratio", "rft_train_clipped_completion_ratio", "rft_train_step",
    "rft_train_planned_steps", "rft_train_step_seconds", "rft_train_tokens_total", "rft_train_rewards_failed_total",
}  # fmt: skip


def start(spec, folder, rewards, **options):
    config = render(spec, folder, rewards.url, rewards.token_file)
    return TrainerProgram(config, folder, free_port(), **options)


def test_warmup_and_grpo_with_an_adapter(tmp_path, model, data, rewards):
    spec = job_spec(
        model,
        data,
        tmp_path / "out",
        tuning={"type": "LoRA", "rank": 8, "lastLayers": 1},
        warmup={"data": [{"name": "w", "uri": str(data / "warmup.jsonl")}], "epochs": 10, "learningRate": "1e-2"},
        hyperparameters=hyperparameters(klCoefficient="0.01", maxSteps=8),
    )
    run = start(spec, tmp_path / "run", rewards, environment=pause_after(3, tmp_path))
    run.wait_for_line(3)
    progress, metrics = run.get("/progress").json(), run.get("/metrics").text
    assert progress["phase"] == "Training"
    assert progress["totalSteps"] == 8
    assert {line.split("{")[0] for line in metrics.splitlines() if not line.startswith("#")} >= METRIC_NAMES
    assert 'namespace="default"' in metrics
    assert 'job="test"' in metrics
    end_pause(tmp_path)
    summary = run.succeed()

    assert summary.steps == 8
    assert summary.held_out == "test"
    assert summary.prompts == 24
    assert summary.warmup is not None
    assert summary.warmup.reward > summary.base.reward
    assert summary.preflight is not None
    assert summary.preflight.verdict == "Fine"
    assert summary.gain.low <= summary.gain.mean <= summary.gain.high
    assert abs(summary.gain.mean - (summary.tuned.reward - summary.base.reward)) < 1e-9
    assert len(summary.checkpoints) == 3
    assert summary.checkpoints[0].step == summary.best_step
    assert summary.checkpoints[0].validation_reward == max(
        line["reward"] for line in run.metrics() if line["split"] == "validation" and line["step"] > 0
    )

    steps = [line for line in run.metrics() if line["split"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert all(line["klDivergence"] is not None and line["gradientNorm"] > 0 for line in steps)
    rollouts = pq.read_table(run.folder.rollout(3)).to_pylist()
    assert len(rollouts) == 16
    assert {"component/digits", "component/short", "advantage", "tokens", "reward"} <= set(rollouts[0])
    mean = sum(row["reward"] for row in rollouts) / 16
    assert abs(mean - steps[2]["reward"]) < 1e-6
    assert any(row["advantage"] for row in rollouts)
    sampled = [sum(row["tokens"] for row in pq.read_table(run.folder.rollout(n)).to_pylist()) for n in range(1, 9)]
    assert [line["trainedTokens"] for line in steps] == list(itertools.accumulate(sampled))
    assert summary.trained_tokens == sum(sampled)
    assert progress["trainedTokens"] == sum(sampled[: progress["step"]]) > 0

    adapter = load_file(run.folder.best / "adapter_model.safetensors")
    assert adapter
    assert all("layers.1." in name for name in adapter)
    assert json.loads((run.folder.best / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
    kept = sorted(path.name for path in run.folder.checkpoints.iterdir())
    assert "step-8" in kept
    assert len(kept) <= 4
    assert (run.folder.checkpoint(8) / "optimizer.pt").exists()
    assert not any((run.folder.checkpoints / name / "optimizer.pt").exists() for name in kept if name != "step-8")
    provenance = Provenance.model_validate_json(run.folder.provenance.read_text())
    assert set(provenance.model) >= {"config.json", "model.safetensors"}
    assert provenance.rewards["digits"].startswith("sha256:")

    # A finished run that is started again says the same and trains no more.
    before = run.folder.metrics.read_bytes()
    again = start(spec, tmp_path / "run", rewards)
    assert again.succeed() == summary
    assert run.folder.metrics.read_bytes() == before


def test_full_training_that_stops_early_and_resumes_after_sigterm(tmp_path, model, data, rewards):
    spec = job_spec(model, data, tmp_path / "undisturbed", hyperparameters=hyperparameters(maxSteps=8))
    undisturbed = start(spec, tmp_path / "run1", rewards)
    summary = undisturbed.succeed()
    assert summary.tuned.reward > summary.base.reward
    tuned = AutoModelForCausalLM.from_pretrained(undisturbed.folder.best)
    base = AutoModelForCausalLM.from_pretrained(model)
    for (name, after), before in zip(tuned.named_parameters(), base.parameters(), strict=True):
        assert not after.equal(before), f"{name} was not trained"

    spec["output"] = {"uri": str(tmp_path / "out")}
    stopped = start(spec, tmp_path / "run2", rewards, environment=pause_after(3, tmp_path))
    stopped.wait_for_line(3)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log
    assert "its checkpoint is saved" in stopped.log
    resumed = start(spec, tmp_path / "run2", rewards, environment=pause_after(7, tmp_path / "again"))
    resumed.wait_for_line(7)
    # Since this start: step 7 is counted after its line.
    (published,) = re.findall(r"^rft_train_tokens_total{.*} (.*)$", resumed.get("/metrics").text, re.MULTILINE)
    end_pause(tmp_path / "again")
    ended = resumed.succeed()
    assert (ended.tuned, ended.trained_tokens) == (summary.tuned, summary.trained_tokens)
    assert curve(resumed.metrics()) == curve(undisturbed.metrics())
    tokens = {line["step"]: line["tokens"] for line in resumed.metrics() if line["split"] == "train"}
    assert "going on from step 4" in resumed.log
    assert float(published) == tokens[6] - tokens[4]


def test_a_torn_checkpoint_is_not_resumed_from(tmp_path, model, data, rewards):
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxSteps=10))
    run = start(spec, tmp_path / "run", rewards, environment=pause_after(5, tmp_path))
    run.wait_for_line(5)
    run.kill()
    # What a kill in the middle of writing leaves: the folder, without its marker.
    torn = run.folder.checkpoints / "checkpoint-6"
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"half of it")
    resumed = start(spec, tmp_path / "run", rewards)
    assert resumed.succeed().steps == 10
    assert "removed incomplete checkpoints" in resumed.log
    assert [m["step"] for m in resumed.metrics() if m["split"] == "train"] == list(range(1, 11))


def test_output_of_another_run_is_refused(tmp_path, model, data, rewards):
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=hyperparameters(maxSteps=2))
    start(spec, tmp_path / "run", rewards).succeed()
    spec["hyperparameters"]["learningRate"] = "1e-4"
    run = start(spec, tmp_path / "run2", rewards)
    assert run.wait() == ExitCode.OUTPUT_INVALID
    message = f"{tmp_path / 'out'} holds another run: hyperparameters.learningRate differs from its job.json"
    assert message in run.log


def test_a_run_goes_on_in_smaller_passes_and_with_more_time_for_rewards(tmp_path, model, data, rewards):
    spec = job_spec(model, data, tmp_path / "undisturbed", hyperparameters=hyperparameters())
    undisturbed = start(spec, tmp_path / "run1", rewards)
    undisturbed.succeed()
    spec["output"] = {"uri": str(tmp_path / "out")}
    stopped = start(spec, tmp_path / "run2", rewards, environment=pause_after(3, tmp_path))
    stopped.wait_for_line(3)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait() == ExitCode.INTERRUPTED, stopped.log

    spec["hyperparameters"]["microBatchSize"] = 4
    config = render(spec, tmp_path / "run2", rewards.url, rewards.token_file)
    slower = {name: target.model_copy(update={"timeout_seconds": 300.0}) for name, target in config.rewards.items()}
    resumed = TrainerProgram(config.model_copy(update={"rewards": slower}), tmp_path / "run2", free_port())
    resumed.succeed()
    assert [m["step"] for m in resumed.metrics() if m["split"] == "train"] == list(range(1, 7))
    for step in range(1, 7):
        prompts = [
            pq.read_table(run.folder.rollout(step), columns=["prompt"]).to_pydict() for run in (undisturbed, resumed)
        ]
        assert prompts[0] == prompts[1], step
    recorded = TrainerConfig.model_validate_json(resumed.folder.config.read_text())
    assert recorded.hyperparameters.micro_batch_size == 4


def test_disk_full_while_a_checkpoint_is_written(tmp_path, model, data, rewards):
    output = tmp_path / "out"
    output.mkdir()
    spec = job_spec(model, data, output, hyperparameters=hyperparameters(maxSteps=4))
    mount = f'mount -t tmpfs -o size=400k tmpfs {output} && exec "$@"'
    run = start(spec, tmp_path / "run", rewards, wrapper=["unshare", "-Urm", "sh", "-c", mount, "sh"])
    assert run.wait() == ExitCode.OUTPUT_FAILED, run.log
    assert "checkpoint step-2 could not be written to" in run.log
    assert "make room and start again: it starts from the beginning" in run.log
    assert "Traceback" not in run.log


def test_an_output_that_cannot_be_written(tmp_path, model, data, rewards):
    occupied = tmp_path / "file"
    occupied.write_text("")
    run = start(job_spec(model, data, occupied), tmp_path / "run", rewards)
    assert run.wait() == ExitCode.OUTPUT_INVALID
    assert f"{occupied} cannot be written to" in run.log
    assert occupied.read_text() == ""
