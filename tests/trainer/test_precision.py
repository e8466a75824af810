"""The precision of a run follows the hardware, the manifest and what is trained."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.trainer import job_spec, render

from rft_trainer import precision
from rft_trainer.modeling import load_model, model_dtype
from rft_trainer.precision import choose_dtype

LORA, FULL = {"type": "LoRA", "rank": 4}, {"type": "Full"}


def config(tmp_path, model, tuning, compute):
    spec = job_spec(model, tmp_path, tmp_path / "out", tuning=tuning, compute=compute)
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").touch()
    return render(spec, tmp_path / "manifest", "http://localhost", None)


CPU, GPU = {"gpusPerNode": 0}, {"gpusPerNode": 1}


@pytest.mark.parametrize(
    ("tuning", "compute", "stored", "instructions", "expected"),
    [
        (LORA, CPU, torch.bfloat16, True, torch.bfloat16),
        (LORA, CPU, torch.bfloat16, False, torch.float32),
        (LORA, CPU, torch.float16, True, torch.float32),
        (LORA, CPU, torch.float32, True, torch.float32),
        (LORA, CPU, None, True, torch.float32),
        (LORA, {**CPU, "precision": "Float32"}, torch.bfloat16, True, torch.float32),
        (LORA, {**CPU, "precision": "BFloat16"}, torch.float32, False, torch.bfloat16),
        (LORA, GPU, torch.bfloat16, False, torch.bfloat16),
        (FULL, CPU, torch.bfloat16, True, torch.float32),
        (FULL, GPU, torch.bfloat16, True, torch.float32),
    ],
)
def test_what_a_run_computes_in(tmp_path, model, monkeypatch, tuning, compute, stored, instructions, expected):
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: instructions)
    assert choose_dtype(config(tmp_path, model, tuning, compute), stored) == expected


def test_the_dtype_of_the_files_is_read(tmp_path, model, monkeypatch):
    folder = tmp_path / "half"
    half = load_model(str(model), torch.bfloat16)
    half.save_pretrained(folder)
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: True)
    assert model_dtype(config(tmp_path, folder, LORA, CPU)) == torch.bfloat16
    assert model_dtype(config(tmp_path, model, LORA, CPU)) == torch.float32
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    dtype = model_dtype(config(tmp_path, folder, LORA, CPU))
    assert load_model(str(folder), dtype).dtype == torch.float32


def test_a_processor_that_counts_as_one_without_instructions():
    command = "from rft_trainer.precision import has_bfloat16_instructions as has; print(int(has()))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", command], env=environment, check=True, capture_output=True, text=True)
    assert json.loads(run.stdout) == 0
