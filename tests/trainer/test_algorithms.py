"""What training does in one step: every algorithm moves the weights, and a failed sample moves nothing."""

import json
import typing

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.reward_server import RewardServer
from support.trainer import hyperparameters, job_spec, render, train_in_process

from rft_api.run_folder import RunFolder
from rft_api.training import Algorithm

# A sample whose completion begins with a or b has no row; the others get their share of digits.
SOMETIMES_FAILING = """
def lambda_handler(event, context):
    rows = []
    for sample in event:
        text = sample["messages"][-1]["content"]
        if text[:1] not in ("a", "b"):
            rows.append({"id": sample["id"], "aggregate_reward_score": sum(map(str.isdigit, text)) / max(len(text), 1)})
    return rows
"""


def one_step(folder, model, data, rewards, **changes):
    spec = job_spec(model, data, folder / "out", hyperparameters=hyperparameters(maxSteps=1), **changes)
    return train_in_process(render(spec, folder, rewards.url, rewards.token_file))


@pytest.mark.parametrize("algorithm", typing.get_args(Algorithm))
def test_every_algorithm_learns_from_a_step(tmp_path, model, data, rewards, algorithm):
    trainer = one_step(tmp_path, model, data, rewards, algorithm=algorithm)
    before = load_file(model / "model.safetensors")
    after = trainer.model.state_dict()
    changes = [(after[name] - weight).abs().max().item() for name, weight in before.items()]
    assert all(0 < change < 0.1 for change in changes), "every weight moves by about the learning rate"
    entry = trainer.state.log_history[0]
    assert entry["grad_norm"] > 0
    assert torch.isfinite(torch.tensor(entry["loss"]))


def test_failed_samples_are_masked_counted_and_named(tmp_path, model, data):
    spec = job_spec(
        model,
        data,
        tmp_path / "out",
        algorithm="DrGRPO",  # its advantage is the distance from the group's mean, and nothing else
        hyperparameters=hyperparameters(maxSteps=1, batchSize=8, samplesPerPrompt=8),
    )
    with RewardServer(tmp_path / "server", {"python": {"source": SOMETIMES_FAILING}}) as server:
        config = render(spec, tmp_path, server.url, server.token_file)
        train_in_process(config)
    folder = RunFolder(config.output)
    rows = pq.read_table(folder.rollout(1)).to_pylist()
    failed = [row for row in rows if row["reward"] is None]
    assert 0 < len(failed) <= 6, "the case needs a few failures, fewer than stop a run"
    assert all(row["error"].startswith("the handler returned no row with this id") for row in failed), failed[0][
        "error"
    ]
    assert all(row["advantage"] == 0 for row in failed)
    groups = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    for group in groups:
        scored = [row for row in group if row["reward"] is not None]
        mean = sum(row["reward"] for row in scored) / len(scored)
        for row in scored:
            assert row["advantage"] == pytest.approx(row["reward"] - mean, abs=1e-6)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    line = next(line for line in lines if line["split"] == "train")
    assert line["rewardsFailed"] == len(failed)
    known = [row["reward"] for row in rows if row["reward"] is not None]
    assert line["reward"] == pytest.approx(sum(known) / len(known))
