"""What a run exports is served by vLLM as it stands, and answers there as the evaluation says."""

import json

import httpx
import pyarrow.parquet as pq
from support.patience import PATIENCE_SECONDS
from support.tiny import write_model
from support.trainer import TrainerProgram, hyperparameters, job_spec, render
from support.vllm import Vllm

from rft_api.ports import free_port

PROMPTS = 8


def test_vllm_serves_what_is_exported(tmp_path, data, rewards):
    """A model that was trained whole, and an adapter that was trained on it, beside it."""
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    model = write_model(tmp_path / "model", hidden=128, tied=False)

    def train(name, model, learning_rate, tuning):
        learning = hyperparameters(maxSteps=4, learningRate=learning_rate)
        spec = job_spec(model, data, tmp_path / name / "out", tuning=tuning, hyperparameters=learning)
        folder = tmp_path / name
        run = TrainerProgram(render(spec, folder, rewards.url, rewards.token_file), folder, free_port())
        run.succeed()
        base, tuned = (pq.read_table(run.folder.evaluation(stage)).to_pylist()[:PROMPTS] for stage in ("base", "tuned"))
        assert [row["completion"] for row in base] != [row["completion"] for row in tuned]
        return run.folder.best, tuned

    whole, by_whole = train("whole", model, "1e-3", {"type": "Full"})
    adapter, by_adapter = train("adapter", whole, "1e-2", {"type": "LoRA", "rank": 8})
    adapted = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"adapter={adapter}"]
    with Vllm(tmp_path, whole, "--max-model-len", "128", "--served-model-name", "whole", *adapted) as vllm:
        for name, rows in (("whole", by_whole), ("adapter", by_adapter)):
            assert [answer(vllm, name, row["prompt"]) for row in rows] == [row["completion"] for row in rows]


def answer(vllm, model, prompt):
    body = {"model": model, "messages": json.loads(prompt), "temperature": 0, "max_tokens": 8}
    response = httpx.post(f"{vllm.url}/v1/chat/completions", json=body, timeout=PATIENCE_SECONDS, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]
