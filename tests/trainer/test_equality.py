"""Step by step, the trainer computes what a bare TRL script computes with the same seed."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from support.bare_trl import LINEAR, assert_same_weights, bare_trl
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_trainer.algorithms import SETTINGS

STEPS = 6
COMPARED = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "num_tokens", "learning_rate")


def ours(folder, model_folder, data, lora, beta, algorithm, rewards):
    """Our trainer in process, in front of a real reward server."""
    spec = job_spec(
        model_folder,
        data,
        folder / "out",
        algorithm=algorithm,
        tuning={"type": "LoRA", "rank": 4, "alpha": 8, "lastLayers": 1} if lora else {"type": "Full"},
        hyperparameters=hyperparameters(
            maxSteps=STEPS, seed=3, temperature="0.9", klCoefficient=str(beta), epochs=2, learningRateSchedule="Linear"
        ),
    )
    trainer = train_in_process(render(spec, folder, rewards.url, rewards.token_file))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return logs, trainer.model.state_dict()


@pytest.mark.parametrize(
    ("lora", "beta", "algorithm", "loss_type"),
    [(False, 0.0, "GRPO", "grpo"), (True, 0.0, "BNPO", "bnpo"), (True, 0.05, "GRPO", "grpo")],
    ids=["full", "adapter", "adapter-and-kl"],
)
def test_equal_to_bare_trl(tmp_path, model, data, rewards, lora, beta, algorithm, loss_type):
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR, layers_to_transform=[1], task_type="CAUSAL_LM")
    theirs, their_weights = bare_trl(
        tmp_path / "bare", model, data, adapter if lora else None, passes=2, steps=STEPS,
        beta=beta, loss_type=loss_type, lr_scheduler_type="linear",
    )  # fmt: skip
    found, weights = ours(tmp_path, model, data, lora, beta, algorithm, rewards)
    assert len(theirs) == len(found) == STEPS
    for step, (expected, logged) in enumerate(zip(theirs, found, strict=True), start=1):
        for name in COMPARED:
            assert logged[name] == expected[name], f"{name} of step {step}"
        for name in ("loss", "grad_norm", "entropy", *(["kl"] if beta else [])):
            assert logged[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-6), f"{name} of step {step}"
    assert len({entry["reward"] for entry in found}) > 1, "rewards that never change would prove nothing"
    assert weights.keys() == their_weights.keys()
    before = load_file(model / "model.safetensors")
    assert_same_weights(weights, their_weights)
    if not lora:
        assert not torch.equal(weights["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.parametrize("algorithm", sorted(SETTINGS))
def test_passes_of_few_tokens_add_up_to_the_batch(tmp_path, model, data, rewards, algorithm):
    """A step in many small passes has the loss, gradient and entropy that TRL computes of the step as one batch."""
    theirs, their_weights = bare_trl(
        tmp_path / "bare", model, data, None, passes=1, steps=3,
        beta=0.05, lr_scheduler_type="linear", **SETTINGS[algorithm],
    )  # fmt: skip
    spec = job_spec(
        model, data, tmp_path / "out", algorithm=algorithm,
        hyperparameters=hyperparameters(
            maxSteps=3, seed=3, temperature="0.9", klCoefficient="0.05", epochs=2, learningRateSchedule="Linear",
            microBatchSize=None, tokensPerMicroBatch=30,
        ),
    )  # fmt: skip
    trainer = train_in_process(render(spec, tmp_path, rewards.url, rewards.token_file))
    assert trainer._passes > 2, "the case has to take several passes"
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(theirs) == len(logs) == 3
    for step, (expected, logged) in enumerate(zip(theirs, logs, strict=True), start=1):
        for name in COMPARED:
            assert logged[name] == expected[name], f"{name} of step {step}"
        for name in ("loss", "grad_norm", "entropy", "kl"):
            assert logged[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-6), f"{name} of step {step}"
    assert_same_weights(trainer.model.state_dict(), their_weights)
