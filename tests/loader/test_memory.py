"""`rft_loader memory`: from config.json alone, whether a job fits its GPUs, as the pod's termination message."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants
from support.hub import Hub, ask_hub
from support.loader import run_loader
from support.model_configurations import QWEN3_8B, QWEN3_32B
from support.trainer import hyperparameters, job_spec, render

import rft_api.hub
from rft_api.exit_codes import ExitCode
from rft_api.memory_plan import GIB
from rft_api.model_files import MAXIMUM_CONFIGURATION
from rft_api.termination import TERMINATION_FILE, parse_memory
from rft_loader.memory import plan_job

SOURCE = "label nvidia.com/gpu.memory of node a"


@pytest.fixture
def write_job(tmp_path):
    """Writes the configuration of a trainer on GPUs, as the operator does; returns its file."""

    def write(**compute):
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        for split in ("train", "validation", "test"):
            (data / f"{split}.jsonl").touch()
        parameters = hyperparameters(maxPromptTokens=1024, maxCompletionTokens=512, microBatchSize=None)
        spec = job_spec(
            tmp_path / "model", data, tmp_path / "out", hyperparameters=parameters, tuning={}, compute=compute
        )
        config = render(spec, tmp_path, "http://127.0.0.1:1", None)
        file = tmp_path / "job.json"
        file.write_text(json.dumps(config.to_json_object()), encoding="utf-8")
        return file

    return write


@pytest.fixture
def plan(tmp_path, write_job):
    """Plans a job whose model is at an address; returns the verdict that the operator would read."""

    def run(uri, *arguments, environment=None, **compute):
        left = tmp_path / "termination-log"
        left.touch()
        command = ["memory", "--job", write_job(**compute), "--uri", uri, "--gpu-source", SOURCE, *arguments]
        done = run_loader(*command, environment={TERMINATION_FILE: str(left), **(environment or {})})
        assert done.returncode == 0, done.stderr
        verdict = parse_memory(left.read_text(encoding="utf-8"))
        assert verdict is not None
        assert verdict.message in done.stderr
        return verdict

    return run


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    return folder


def test_a_job_that_fits(plan, model):
    verdict = plan(model, "--gpu-bytes", 80 * GIB)
    assert verdict.fits is True
    assert f"of 80.0 GiB ({SOURCE}); vLLM gets" in verdict.message


def test_a_job_that_does_not_fit_and_what_to_change(plan, model):
    (model / "config.json").write_text(json.dumps(QWEN3_32B), encoding="utf-8")
    verdict = plan(model, "--gpu-bytes", 24 * GIB)
    assert verdict.fits is False
    assert f"of 24.0 GiB ({SOURCE})" in verdict.message
    assert "What to change: " in verdict.message


@pytest.mark.parametrize(
    ("smallest", "largest", "fits", "message"),
    [
        (80, 160, True, f"of 80.0 GiB ({SOURCE}); vLLM gets"),
        (16, 24, False, "of 24.0 GiB (the largest)"),
        (16, 80, None, "the job does not fit all GPUs that it may get: each GPU needs "),
    ],
)
def test_gpus_of_several_sizes(plan, model, smallest, largest, fits, message):
    both = ("--gpu-bytes", smallest * GIB, "--largest-gpu-bytes", largest * GIB, "--largest-gpu-source", "the largest")
    verdict = plan(model, *both)
    assert verdict.fits is fits
    assert message in verdict.message
    if fits is None:
        assert f"of 16.0 GiB ({SOURCE})" in verdict.message
        assert verdict.message.endswith("choose nodes whose GPUs have more memory, with compute.pod.nodeSelector")


def test_the_manifest_states_the_memory(plan, model):
    verdict = plan(model, gpuMemory="16Gi")
    assert verdict.fits is False
    assert f"of 16.0 GiB ({SOURCE})" in verdict.message


def test_without_the_memory_of_gpus_it_says_what_they_need(plan, model):
    verdict = plan(model)
    assert verdict.fits is None
    assert verdict.message.startswith("each GPU needs ")
    assert verdict.message.endswith(f"the memory of the GPUs is not known ({SOURCE}): set compute.gpuMemory")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"model_type": "opt"}', "models of type opt are not among those"),
        ('{"model_type": "gpt2"}', "rollouts.engine: vLLM cannot load adapters into models of type gpt2"),
        ("[", "the memory cannot be planned: "),
        (None, "is no model: it holds no config.json"),
        (" " * (MAXIMUM_CONFIGURATION + 1), "config.json is larger than 8,388,608 bytes"),
    ],
)
def test_a_model_that_cannot_be_planned_is_a_verdict_too(plan, model, content, why):
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_text(content, encoding="utf-8")
    verdict = plan(model, "--gpu-bytes", 80 * GIB)
    assert verdict.fits is None
    assert why in verdict.message


def test_a_model_that_is_nowhere(plan, tmp_path):
    for uri, why in ((tmp_path / "none", "there is no such folder"), ("hf://one", "must look like hf://OWNER/NAME")):
        verdict = plan(uri, "--gpu-bytes", 80 * GIB)
        assert verdict.fits is None
        assert why in verdict.message


def test_a_model_in_a_bucket(plan, bucket, model):
    (model / "model.safetensors").write_bytes(b"never fetched")
    uri = bucket.put(model, "models/qwen")
    assert plan(uri, "--gpu-bytes", 80 * GIB, environment=bucket.environment).fits is True
    assert plan(f"{uri}/", "--gpu-bytes", 16 * GIB, environment=bucket.environment).fits is False
    verdict = plan("s3://no-such-bucket/qwen", environment=bucket.environment)
    assert verdict.fits is None
    assert "cannot list s3://no-such-bucket/qwen" in verdict.message


def test_of_a_model_on_the_hub_only_the_config_is_fetched(write_job, tmp_path, monkeypatch):
    folder = tmp_path / "hub/owner/qwen"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"never fetched")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rft_api.hub, "PAUSES", (0.0,))
    hub = Hub(tmp_path / "hub")
    try:
        ask_hub(hub, monkeypatch)
        assert plan_job(write_job(), "hf://owner/qwen", [(80 * GIB, "")]).fits is True
        files = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
        assert files == {"config.json"}
    finally:
        hub.stop()


def test_a_configuration_of_another_version_is_no_verdict(tmp_path, model):
    file, left = tmp_path / "job.json", tmp_path / "termination-log"
    file.write_text("{}", encoding="utf-8")
    done = run_loader("memory", "--job", file, "--uri", model, environment={TERMINATION_FILE: str(left)})
    assert done.returncode == ExitCode.CONFIGURATION_INVALID
    assert f"error: {file}: " in done.stderr
    assert not left.exists()
