"""What each mode of importance sampling does to a step: made-up log-probabilities, and the loss computed by hand."""

from __future__ import annotations

import math
import random

import pyarrow.parquet as pq
import pytest
import torch
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_api.run_folder import RunFolder
from rft_trainer.grpo import RFTTrainer
from rft_trainer.metrics_log import read_steps
from rft_trainer.modeling import load_model

RATIOS = (0.6, 0.9, 1.0, 1.1, 1.3, 2.6)


def logprobs(model, prompt, completion):
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


class MadeUp(RFTTrainer):
    """A trainer to which a server seems to have sent other log-probabilities, with a known ratio for each token."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_vllm = True
        self.sampled = []

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        completions, _ = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        drawn, sent = random.Random(0), []
        for prompt, completion in zip(prompt_ids, completions, strict=True):
            ratios = drawn.choices(RATIOS, k=len(completion))
            self.sampled.append((prompt, completion, ratios))
            with torch.no_grad():
                own = logprobs(self.model, prompt, completion)
            sent.append((own - torch.tensor(ratios).log()).tolist())
        return completions, sent


def corrected(mode, cap, ratios):
    """The factor of each token's loss, and the ratios that the metrics are about."""
    of = ratios if mode.startswith("Token") else [math.prod(ratios)]
    if mode.endswith("Truncate"):
        changed = [min(ratio, cap) for ratio in of]
    else:
        changed = [0.0 if ratio > cap else ratio for ratio in of]
    return changed if mode.startswith("Token") else changed * len(ratios), changed


@pytest.mark.parametrize("cap", [1.2, 2.0])
@pytest.mark.parametrize("mode", ["TokenTruncate", "TokenMask", "SequenceTruncate", "SequenceMask"])
def test_the_loss_and_its_gradient_have_the_ratios_of_the_mode(tmp_path, model, data, rewards, mode, cap):
    spec = job_spec(
        model, data, tmp_path / "out",
        hyperparameters=hyperparameters(
            microBatchSize=16, maxSteps=1, maximumGradientNorm="1000",
            importanceSampling={"mode": mode, "cap": str(cap)},
        ),
        compute={"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}},
    )  # fmt: skip
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    trainer = train_in_process(config, MadeUp)
    folder = RunFolder(config.output)
    (line,) = read_steps(folder)
    advantages = pq.read_table(folder.rollout(1)).column("advantage").to_pylist()
    assert any(advantages)

    policy, loss = load_model(str(model), torch.float32), torch.zeros(())
    value, seen = 0.0, []
    for (prompt, completion, ratios), advantage in zip(trainer.sampled, advantages, strict=True):
        factors, changed = corrected(mode, cap, ratios)
        seen += changed
        # GRPO: the mean over a completion's tokens, and then over completions. The policy's ratio to itself is 1, and
        # its derivative is that of the log-probability.
        value -= advantage * sum(factors) / len(completion) / len(trainer.sampled)
        own = logprobs(policy, prompt, completion)
        loss = loss - advantage * (torch.tensor(factors) * own).mean() / len(trainer.sampled)
    loss.backward()
    norm = torch.cat([weight.grad.flatten() for weight in policy.parameters()]).norm().item()

    assert line.loss == pytest.approx(value, abs=2e-5)
    assert line.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert line.importance_ratio_mean == pytest.approx(sum(seen) / len(seen), rel=1e-4)
    assert line.importance_ratio_min == pytest.approx(min(seen), rel=1e-4)
    assert line.importance_ratio_max == pytest.approx(max(seen), rel=1e-4)
    clipped = sum(ratio in (0.0, cap) for ratio in seen) / len(seen)
    assert 0 < clipped < 1, "the case needs ratios on both sides of the cap"
    assert line.importance_ratio_clipped == pytest.approx(clipped)
    assert line.logprob_difference_max == pytest.approx(math.log(max(RATIOS)), rel=1e-3)
