"""The precision of a run follows the hardware, the manifest and what is trained."""

import pytest
import torch
from support.trainer import job_spec, render

from rft_trainer import precision
from rft_trainer.base_model import BaseModel
from rft_trainer.cpu_server import server_arguments
from rft_trainer.modeling import load_model, model_dtype
from rft_trainer.precision import choose_dtype
from rft_trainer.processor import has_bfloat16_instructions

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
    assert model_dtype(config(tmp_path, folder, LORA, CPU), BaseModel(str(folder), None, str(folder))) == torch.bfloat16
    assert model_dtype(config(tmp_path, model, LORA, CPU), BaseModel(str(model), None, str(model))) == torch.float32
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: False)
    dtype = model_dtype(config(tmp_path, folder, LORA, CPU), BaseModel(str(folder), None, str(folder)))
    assert load_model(str(folder), dtype).dtype == torch.float32


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", None, True),
        ("flags\t\t: fpu avx2 amx_bf16", "DEFAULT", True),
        ("Features\t: fp asimd bf16 sve", None, True),
        ("flags\t\t: fpu avx2 f16c", None, False),
        ("flags\t\t: fpu avx2 avx512f avx512vl avx512_vnni", None, False),
        ("flags\t\t: fpu avx2 avx512_bf16", "AVX2", False),
        ("flags\t\t: fpu avx2 avx512_bf16", "avx512_core", False),
    ],
)
def test_what_a_processor_has(tmp_path, monkeypatch, flags, limit, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some bf16 CPU\n{flags}\nbugs\t: none\n")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_bfloat16_instructions(cpuinfo) is expected


def test_a_server_on_cpus_is_started_in_a_precision_that_is_fast():
    plain = ["-m", "vllm.entrypoints.openai.api_server", "--model", "m"]
    assert server_arguments(["--model", "m"], has_bfloat16=True) == plain
    assert server_arguments(["--model", "m"], has_bfloat16=False) == [*plain, "--dtype", "float32"]
    for stated in (["--dtype", "bfloat16"], ["--dtype=bfloat16"]):
        assert server_arguments(["--model", "m", *stated], has_bfloat16=False) == [*plain, *stated]
