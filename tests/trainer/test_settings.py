"""Settings of loss, optimizer, adapter, memory and checkpoints: what each does to a training, and to its files."""

from __future__ import annotations

import json
import logging

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from support.bare_trl import assert_same_weights, bare_trl
from support.trainer import (
    TrainerProgram,
    curve,
    hyperparameters,
    job_spec,
    pause_after,
    render,
    train_in_process,
)

from rft_api.exit_codes import ExitCode, RunError
from rft_api.ports import free_port
from rft_api.run_folder import CheckpointInfo, RunFolder
from rft_api.training import default_scale
from rft_trainer import modeling
from rft_trainer.algorithms import SETTINGS
from rft_trainer.base_model import BaseModel
from rft_trainer.grpo import RFTTrainer
from rft_trainer.metrics_log import read_steps
from rft_trainer.modeling import check_base_model
from rft_trainer.update import _EarlyPass

STEPS = 4
OPTIMIZER = {"weightDecay": "0.3", "adamBeta1": "0.7", "adamBeta2": "0.9", "adamEpsilon": "1e-4"}


def train(folder, model, data, rewards, kind=None, learning=None, **changes):
    spec = job_spec(model, data, folder / "out", hyperparameters=hyperparameters(**(learning or {})), **changes)
    config = render(spec, folder, rewards.url, rewards.token_file)
    return train_in_process(config, kind), RunFolder(config.output)


def weights_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}


@pytest.fixture
def early_passes(monkeypatch):
    """Whether each pass that was computed while rewards were, was the one that the update needed."""
    answers = []
    matches = _EarlyPass.matches

    def watch(self, *inputs):
        answers.append(matches(self, *inputs))
        return answers[-1]

    monkeypatch.setattr(_EarlyPass, "matches", watch)
    return answers


@pytest.mark.parametrize("passes", [{"microBatchSize": 16}, {"microBatchSize": None, "tokensPerMicroBatch": 30}])
def test_settings_do_what_they_do_in_trl(tmp_path, model, data, rewards, early_passes, passes):
    """All settings that TRL has, too, together: the same numbers, step by step, and the same weights."""
    theirs, their_weights = bare_trl(
        tmp_path / "bare", model, data,
        LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=True, task_type="CAUSAL_LM"),
        passes=1, steps=STEPS, loss_type="dapo", epsilon_high=0.28, scale_rewards="batch",
        mask_truncated_completions=True, entropy_coef=0.03, lr_scheduler_type="constant_with_warmup", warmup_steps=2,
        weight_decay=0.3, adam_beta1=0.7, adam_beta2=0.9, adam_epsilon=1e-4,
    )  # fmt: skip
    trainer, folder = train(
        tmp_path, model, data, rewards,
        learning={
            **OPTIMIZER, **passes, "maxSteps": STEPS, "seed": 3, "temperature": "0.9", "epochs": 2,
            "scaleRewards": "Batch", "maskTruncatedCompletions": True, "entropyCoefficient": "0.03",
            "warmupRatio": "0.5",
        },
        algorithm="DAPO",
        tuning={
            "type": "LoRA", "rank": 4, "alpha": 6, "targetModules": ["q_proj", "down_proj"], "rankStabilized": True
        },
    )  # fmt: skip
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, (expected, logged) in enumerate(zip(theirs, logs, strict=True), start=1):
        assert (logged["reward"], logged["learning_rate"]) == (expected["reward"], expected["learning_rate"]), step
        for name in ("loss", "grad_norm"):
            assert logged[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-6), f"{name} of step {step}"
    assert [round(1000 * line.learning_rate, 6) for line in read_steps(folder)] == [0, 1, 2, 2]
    weights = trainer.model.state_dict()
    assert weights.keys() == their_weights.keys()
    assert_same_weights(weights, their_weights)
    assert {name.split(".")[-4] for name in weights if "lora_A" in name} == {"q_proj", "down_proj"}
    assert early_passes == [True] * STEPS

    learnt = 0
    for line, logged in zip(read_steps(folder), logs, strict=True):
        rows = pq.read_table(folder.rollout(line.step)).to_pylist()
        whole = 16 * (1 - logged["completions/clipped_ratio"])
        learnt += round(whole * logged["completions/mean_terminated_length"])
        assert line.trained_tokens == learnt
        assert 0 < line.clipped_completion_ratio < 1, "the case needs completions of both kinds"
        groups = [{row["reward"] for row in rows[start : start + 4]} for start in range(0, 16, 4)]
        assert line.zero_variance_group_ratio == sum(len(group) == 1 for group in groups) / 4


class Noted(RFTTrainer):
    """A trainer whose rewards are all alike, so that only entropies have gradients; it keeps what it has sampled."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        self.prompt_ids = prompt_ids
        self.completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return self.completion_ids, logprobs

    def _calculate_rewards(self, *args, **kwargs):
        return torch.ones_like(super()._calculate_rewards(*args, **kwargs))


@pytest.mark.parametrize("algorithm", ["GRPO", "DAPO", "BNPO", "GSPO"])
@pytest.mark.parametrize("passes", [{"microBatchSize": 16}, {"microBatchSize": None, "tokensPerMicroBatch": 30}])
def test_entropy_is_weighed_as_by_hand(tmp_path, model, data, rewards, algorithm, passes):
    """Loss and gradient of a step whose advantages are all 0, computed token by token with transformers' model."""
    weight, temperature = 0.25, 0.8
    learning = {**passes, "maxSteps": 1, "entropyCoefficient": str(weight), "temperature": str(temperature)}
    trainer, folder = train(tmp_path, model, data, rewards, Noted, learning, algorithm=algorithm)
    plain = modeling.load_model(str(model), torch.float32)
    entropies = []
    for prompt, completion in zip(trainer.prompt_ids, trainer.completion_ids, strict=True):
        logits = plain(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        logps = (logits / temperature).log_softmax(-1)
        entropies.append(-(logps.exp() * logps).sum(-1))
    mean = torch.cat(entropies).mean()
    (-weight * mean).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm()
    (line,) = read_steps(folder)
    assert line.loss == pytest.approx(-weight * mean.item(), rel=1e-4)
    assert line.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    assert line.policy_entropy == pytest.approx(mean.item(), rel=1e-4)
    assert norm > 0.01
    assert len({len(ids) for ids in trainer.completion_ids}) > 1, "the case needs completions of several lengths"


class Truncated(RFTTrainer):
    """A trainer whose second step samples only completions without an end; it keeps the weights before each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.before = []

    def _generate_single_turn(self, *args, **kwargs):
        self.before.append(weights_of(self))
        completions, logprobs = super()._generate_single_turn(*args, **kwargs)
        if self.state.global_step == 1:
            ends = {*self._end_ids, self.processing_class.pad_token_id}
            completions = [[9 if token in ends else token for token in ids] for ids in completions]
        return completions, logprobs


@pytest.mark.parametrize("passes", [{}, {"microBatchSize": None, "tokensPerMicroBatch": 30}])
def test_a_step_of_truncated_completions_changes_nothing_and_says_so(
    tmp_path, model, data, rewards, caplog, early_passes, passes
):
    learning = {**OPTIMIZER, **passes, "maskTruncatedCompletions": True, "klCoefficient": "0.1", "maxSteps": 3}
    with caplog.at_level(logging.WARNING):
        trainer, folder = train(tmp_path, model, data, rewards, Truncated, learning)
    assert early_passes == [True] * 3
    first, second, third = trainer.before
    assert all(torch.equal(second[name], third[name]) for name in second), "momentum and decay would change weights"
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(third[name], weight) for name, weight in weights_of(trainer).items())
    (message,) = [record.getMessage() for record in caplog.records if "changes no weights" in record.getMessage()]
    assert message.startswith("step 2 changes no weights: all of its completions were truncated")
    before, line, after = read_steps(folder)
    assert before.trained_tokens == line.trained_tokens < after.trained_tokens
    assert (line.loss, line.gradient_norm, line.clipped_completion_ratio) == (0, 0, 1)
    assert line.reward > 0


def test_gradients_above_the_largest_norm_are_clipped_to_it(tmp_path, model, data, rewards):
    """AdamW's first step is the gradient, times the learning rate, where its elements are far below adamEpsilon."""
    base, norms = load_file(model / "model.safetensors"), []
    for maximum in (0.01, 1000):
        learning = {"maxSteps": 1, "learningRate": "0.1", "adamEpsilon": "1", "maximumGradientNorm": str(maximum)}
        trainer, folder = train(tmp_path / str(maximum), model, data, rewards, learning=learning)
        (line,) = read_steps(folder)
        norms.append(line.gradient_norm)
        weights = weights_of(trainer)
        change = torch.cat([(weights[name] - weight).flatten() for name, weight in base.items()]).norm().item()
        assert change == pytest.approx(0.1 * min(maximum, line.gradient_norm), rel=0.05)
    assert norms[0] == norms[1] > 0.1, "the norm that is recorded is that before"


def test_the_default_scale_is_that_of_the_algorithm():
    for algorithm, settings in SETTINGS.items():
        assert default_scale(algorithm).lower() == settings.get("scale_rewards", "group")


def test_only_the_update_has_dropout(tmp_path, model, data, rewards, early_passes):
    """Layers that are computed again for the backward pass get the same masks, so the gradients are the same."""
    completions, weights = {}, {}
    for dropout, checkpointing in (("0", False), ("0.5", False), ("0.5", True)):
        trainer, folder = train(
            tmp_path / f"{dropout}-{checkpointing}", model, data, rewards, learning={"maxSteps": 2},
            tuning={"type": "LoRA", "rank": 4, "dropout": dropout},
            compute={"gpusPerNode": 0, "gradientCheckpointing": checkpointing},
        )  # fmt: skip
        assert trainer.model.is_gradient_checkpointing == checkpointing
        completions[dropout] = pq.read_table(folder.rollout(1)).column("completion").to_pylist()
        weights[dropout, checkpointing] = {name: w for name, w in weights_of(trainer).items() if "lora" in name}
    assert early_passes == [True] * 6
    assert completions["0"] == completions["0.5"], "the first step samples from the base model"
    plain, kept, again = weights["0", False], weights["0.5", False], weights["0.5", True]
    assert any((plain[name] - weight).abs().max() > 1e-4 for name, weight in kept.items())
    for name, weight in kept.items():
        torch.testing.assert_close(weight, again[name], rtol=1e-4, atol=1e-6)

    tokens = torch.arange(4, 20)[None]
    arguments = (trainer.model.train(), tokens, torch.ones_like(tokens), 8)
    with_gradients = [trainer._get_per_token_logps_and_entropies(*arguments)[0] for _ in range(2)]
    with torch.no_grad():
        without = [trainer._get_per_token_logps_and_entropies(*arguments)[0] for _ in range(2)]
    assert torch.equal(*without)
    assert not torch.equal(*with_gradients)
    assert any(module.training for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout))


def test_the_ratio_of_an_update_with_dropout_is_1(tmp_path, model, data, rewards):
    """With vLLM, TRL would compare passes with different masks, and the clipping range of GSPO would stop them."""

    class Sampled(RFTTrainer):
        """A trainer whose completions come with the log-probabilities that a server would send."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.use_vllm = True

        def _generate_single_turn(self, *args, **kwargs):
            completions, _ = super()._generate_single_turn(*args, **kwargs)
            return completions, [[-3.0] * len(ids) for ids in completions]

    trainer, folder = train(
        tmp_path, model, data, rewards, Sampled, {"maxSteps": 3}, algorithm="GSPO",
        tuning={"type": "LoRA", "rank": 4, "dropout": "0.5"},
    )  # fmt: skip
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["clip_ratio/region_mean"] for entry in logs] == [0, 0, 0]
    assert all(line.gradient_norm > 0 and line.importance_ratio_mean > 0 for line in read_steps(folder))


def test_an_adapter_on_chosen_layers(tmp_path, model, data, rewards, monkeypatch):
    monkeypatch.setattr(modeling, "_load_weights", None)

    def check(tuning):
        spec = job_spec(model, data, tmp_path / "out", tuning=tuning)
        check_base_model(render(spec, tmp_path, "http://unused", None), BaseModel(str(model), None, str(model)))

    check({"targetModules": ["v_proj", "gate_proj"]})
    with pytest.raises(RunError) as refused:
        check({"targetModules": ["v_proj", "query", "lm_head"]})
    assert refused.value.code == ExitCode.CONFIGURATION_INVALID
    assert str(refused.value) == (
        "spec.tuning.targetModules: the model has no linear layers called query, lm_head that an adapter can train; "
        "those that it has are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_checkpoints_have_an_interval_of_their_own(tmp_path, model, data, rewards):
    """Validations after steps 2, 4 and 6, of which the last one stops the run; checkpoints after 3 and 6.

    A run that goes on from step 3 knows the validation of step 2: else it would stop later.
    """

    def start(folder, environment=None):
        spec = job_spec(
            model, data, folder / "out",
            hyperparameters=hyperparameters(maxSteps=10, learningRate="1e-3"),
            tuning={"type": "LoRA", "rank": 4, "rankStabilized": True, "dropout": "0.1"},
            checkpoints={"interval": 3, "keep": 2},
            earlyStopping={"patience": 2, "minimumGain": "1000"},
        )  # fmt: skip
        config = render(spec, folder, rewards.url, rewards.token_file)
        return TrainerProgram(config, folder, free_port(), environment=environment)

    undisturbed = start(tmp_path / "undisturbed")
    summary = undisturbed.succeed()
    assert (summary.steps, summary.stopped_early) == (6, True)

    killed = start(tmp_path / "killed", pause_after(5, tmp_path))
    killed.wait_for_line(4, "validation")
    killed.kill()
    resumed = start(tmp_path / "killed")
    assert resumed.succeed().tuned == summary.tuned
    assert "going on from step 3" in resumed.log
    assert curve(resumed.metrics()) == curve(undisturbed.metrics())

    for run in (undisturbed, resumed):
        checkpoints = {path.name: path for path in run.folder.checkpoints.iterdir()}
        assert sorted(checkpoints) == ["step-2", "step-3", "step-4", "step-6"]
        for name, path in checkpoints.items():
            info = CheckpointInfo.model_validate_json((path / "complete.json").read_text())
            assert info.resumable == (path / "optimizer.pt").exists() == (name in ("step-3", "step-6"))
            assert (info.validation_reward is None) == (name == "step-3")
        best = load_file(run.folder.best / "adapter_model.safetensors")
        saved = load_file(run.folder.checkpoint(summary.best_step) / "adapter_model.safetensors")
        assert all(torch.equal(best[name], saved[name]) for name in saved)
        assert json.loads((run.folder.best / "adapter_config.json").read_text())["use_rslora"] is True
