"""A run that cannot fit its GPUs ends before the weights of its model are fetched, and says what to change."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import constants
from support.hub import REVISION, Hub, ask_hub
from support.model_configurations import QWEN3_8B, QWEN3_32B
from support.trainer import hyperparameters, job_spec, render

import rft_api.hub
from rft_api.exit_codes import ExitCode, RunError
from rft_api.memory_plan import GIB
from rft_api.progress import MemoryVerdict
from rft_trainer import memory_check
from rft_trainer.flow import Run
from rft_trainer.memory_check import check_memory, judge_run, refuse_unfit
from rft_trainer.progress import ProgressReporter


def config_for(tmp_path, data, configuration, **compute):
    """The configuration of a run on a GPU, with a model of which only config.json exists."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    parameters = hyperparameters(maxPromptTokens=1024, maxCompletionTokens=512)
    spec = job_spec(model, data, tmp_path / "out", hyperparameters=parameters, tuning={"type": "LoRA"}, compute=compute)
    return render(spec, tmp_path, "http://127.0.0.1:1", None)


def test_the_gpu_decides(tmp_path, data):
    config = config_for(tmp_path, data, QWEN3_8B)
    assert judge_run(config, None, 80 * GIB).fits is True
    verdict = judge_run(config, None, 16 * GIB)
    assert verdict.fits is False
    assert "of 16.0 GiB" in verdict.message
    assert judge_run(config, None, None).fits is None


def test_the_manifest_may_state_less_than_the_gpu_has(tmp_path, data):
    config = config_for(tmp_path, data, QWEN3_8B, gpuMemory="16Gi")
    assert judge_run(config, None, 80 * GIB).fits is False


@pytest.mark.parametrize("configuration", [{"model_type": "gpt2"}, {**QWEN3_8B, "hidden_size": None}])
def test_a_model_of_unknown_shape_is_trained_without_a_plan(tmp_path, data, configuration):
    config = config_for(tmp_path, data, configuration)
    verdict = judge_run(config, None, 16 * GIB)
    assert verdict.fits is None
    assert "cannot be planned" in verdict.message
    assert refuse_unfit(config, verdict) == verdict


def test_the_smallest_gpu_decides(tmp_path, data, monkeypatch):
    config = config_for(tmp_path, data, QWEN3_8B)
    sizes = [80.0 * GIB, 80.0 * GIB]
    monkeypatch.setattr(memory_check, "gather", lambda value: sizes if isinstance(value, float) else [value])
    monkeypatch.setattr(memory_check, "_gpu_memory", lambda: sizes[0])
    assert check_memory(config, None).fits is True
    sizes[1] = 16.0 * GIB
    with pytest.raises(RunError, match=r"of 16\.0 GiB"):
        check_memory(config, None)


def test_what_does_not_fit_is_refused_unless_told_otherwise(tmp_path, data):
    config = config_for(tmp_path, data, QWEN3_8B)
    verdict = MemoryVerdict(fits=False, message="too large")
    with pytest.raises(RunError, match=r"spec\.compute\.ignoreMemoryPlan: true") as refusal:
        refuse_unfit(config, verdict)
    assert refusal.value.code is ExitCode.DOES_NOT_FIT
    forced = config.model_copy(update={"compute": config.compute.model_copy(update={"ignore_memory_plan": True})})
    reported = refuse_unfit(forced, verdict)
    assert reported.fits is False
    assert "It trains nevertheless" in reported.message


def test_a_run_ends_before_weights_are_fetched(tmp_path, data, monkeypatch):
    config = config_for(tmp_path, data, QWEN3_32B).model_copy(update={"model": "owner/qwen"})
    folder = tmp_path / "hub/owner/qwen"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN3_32B), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"never fetched")
    hub = Hub(tmp_path / "hub")
    try:
        ask_hub(hub, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(rft_api.hub, "PAUSES", (0.0,))
        # This machine has no GPU.
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(memory_check, "_gpu_memory", lambda: 24.0 * GIB)
        run = Run(config, REVISION, 1, ProgressReporter("default", "test"), lambda: False)
        with pytest.raises(RunError, match="each GPU needs") as refusal:
            run._fetch_base_model()
        assert refusal.value.code is ExitCode.DOES_NOT_FIT
        files = {request.rpartition("/")[2] for request in hub.requests if "/owner/qwen/" in request}
        assert files == {"config.json"}
    finally:
        hub.stop()
