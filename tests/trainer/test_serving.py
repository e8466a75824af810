"""What a run exports is served by vLLM as it stands, and answers there as the evaluation says."""

import json

import httpx
import pyarrow.parquet as pq
import pytest
from support.tiny import write_model
from support.trainer import TrainerProgram, hyperparameters, job_spec, render
from support.vllm import Vllm

from rft_api.ports import free_port

PROMPTS = 8


@pytest.fixture(scope="module")
def servable(tmp_path_factory):
    """Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes."""
    return write_model(tmp_path_factory.mktemp("model") / "servable", hidden=128, tied=False)


@pytest.mark.parametrize("tuning", [{"type": "Full"}, {"type": "LoRA", "rank": 8}], ids=["full", "lora"])
def test_vllm_serves_the_export(tmp_path, servable, data, rewards, tuning):
    learning = hyperparameters(maxSteps=4, learningRate="1e-2" if tuning["type"] == "LoRA" else "1e-3")
    spec = job_spec(servable, data, tmp_path / "out", tuning=tuning, hyperparameters=learning)
    run = TrainerProgram(render(spec, tmp_path, rewards.url, rewards.token_file), tmp_path, free_port())
    run.succeed()
    base, tuned = (pq.read_table(run.folder.evaluation(stage)).to_pylist()[:PROMPTS] for stage in ("base", "tuned"))
    assert [row["completion"] for row in base] != [row["completion"] for row in tuned]

    model, arguments = run.folder.best, ["--served-model-name", "tuned"]
    if tuning["type"] == "LoRA":
        adapter = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={run.folder.best}"]
        model, arguments = servable, ["--served-model-name", "base", *adapter]
    with Vllm(tmp_path, model, "--max-model-len", "128", *arguments) as vllm:
        for row in tuned:
            assert answer(vllm, "tuned", row["prompt"]) == row["completion"]
        if tuning["type"] == "LoRA":
            for row in base:
                assert answer(vllm, "base", row["prompt"]) == row["completion"]


def answer(vllm, model, prompt):
    body = {"model": model, "messages": json.loads(prompt), "temperature": 0, "max_tokens": 8}
    response = httpx.post(f"{vllm.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]
