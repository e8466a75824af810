"""What a run exports is served by vLLM as it stands, and answers there as the evaluation says."""

import json
import os
import subprocess
import sys
import time

import httpx
import pyarrow.parquet as pq
import pytest
from support.tiny import write_model
from support.trainer import TrainerProgram, hyperparameters, job_spec, render

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

    if tuning["type"] == "Full":
        arguments = ["--model", run.folder.best, "--served-model-name", "tuned"]
    else:
        adapter = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={run.folder.best}"]
        arguments = ["--model", servable, "--served-model-name", "base", *adapter]
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (tmp_path / "vllm.log").open("wb") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, arguments),
                "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
                "--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", "67108864", "--max-model-len", "128",
            ],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 400
        while not ready(port):
            assert server.poll() is None, (tmp_path / "vllm.log").read_text()[-4000:]
            assert time.monotonic() < deadline, (tmp_path / "vllm.log").read_text()[-4000:]
            time.sleep(0.5)
        for row in tuned:
            assert answer(port, "tuned", row["prompt"]) == row["completion"]
        if tuning["type"] == "LoRA":
            for row in base:
                assert answer(port, "base", row["prompt"]) == row["completion"]
    finally:
        server.terminate()
        server.wait(60)


def ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def answer(port, model, prompt):
    body = {"model": model, "messages": json.loads(prompt), "temperature": 0, "max_tokens": 8}
    response = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]
