"""`rft plan`: what a job needs, from config.json alone, and what to change; the page about it shows its real output."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from support.hub import Hub, ask_hub
from support.model_configurations import LLAMA_3_1_8B, QWEN3_8B, QWEN3_30B_A3B, QWEN3_32B

import rft_api.hub
from rft_api.exit_codes import ExitCode
from rft_api.foreign.text import printable
from rft_api.model_files import MAXIMUM_CONFIGURATION
from rft_api.model_shape import FAMILIES
from rft_api.ports import free_port
from rft_api.storage import ObjectStore

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"
JOB = """\
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata: {{name: {name}}}
spec:
  model: {{uri: "{uri}"}}
  data:
    train:
    - {{name: texts, uri: train.jsonl, reward: exact}}
  compute: {compute}
  output: {{uri: out}}
"""


def write(folder: Path, compute: str, configuration: dict, name: str = "job", uri: str = "model") -> Path:
    """Writes a manifest, and the config.json that it names."""
    model = folder / "model" if "://" in uri else folder / uri
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    file = folder / f"{name}.yaml"
    file.write_text(JOB.format(name=name, uri=uri, compute=compute), encoding="utf-8")
    return file


def test_a_job_that_fits(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{gpuMemory: 80Gi}", QWEN3_8B))
    assert ended.returncode == 0, ended.stderr
    assert "8.19 B weights" in ended.stdout
    assert "It fits." in ended.stdout
    assert re.search(r"^weights +15\.3 +15\.3 +15\.3 +15\.3$", ended.stdout, flags=re.MULTILINE)
    assert re.search(r"The cache holds \d+ sequences of 1536 tokens", ended.stdout)


def test_a_warm_up_alone_is_not_planned(rft, tmp_path):
    file = write(tmp_path, "{gpuMemory: 80Gi}", QWEN3_8B)
    text = file.read_text().replace("data:\n    train:\n    - {name: texts, uri: train.jsonl, reward: exact}", "WARMUP")
    assert "WARMUP" in text
    file.write_text(text.replace("WARMUP", "warmup: {data: [{name: texts, uri: train.jsonl}]}"))
    ended = rft("plan", file)
    assert ended.returncode == 0, ended.stderr
    assert "RFTJob job: the memory cannot be planned: a warm-up alone takes the memory" in " ".join(
        ended.stdout.split()
    )


def test_a_job_that_does_not_fit_ends_with_its_exit_code_and_advice(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{gpuMemory: 24Gi}", QWEN3_32B))
    assert ended.returncode == ExitCode.DOES_NOT_FIT
    assert "It does not fit" in ended.stdout
    assert "1. " in ended.stdout
    assert "RFTJob job: the planned memory does not fit the GPUs" in ended.stderr


@pytest.mark.parametrize("name", ["[bold]model", "[link=x]model", "[x", "\x1b[2Jmodel\u202e"])
def test_the_address_of_a_model_is_shown_as_it_is(rft, tmp_path, name):
    file = write(tmp_path, "{gpuMemory: 80Gi}", QWEN3_8B)
    (tmp_path / "model").rename(tmp_path / name)
    file.write_text(file.read_text(encoding="utf-8").replace('"model"', json.dumps(name)), encoding="utf-8")
    ended = rft("plan", file)
    assert ended.returncode == 0, ended.stderr
    assert f"RFTJob job: {printable(name)}\n" in ended.stdout


def test_every_job_is_planned_before_the_command_ends(rft, tmp_path):
    large = write(tmp_path, "{gpuMemory: 24Gi}", QWEN3_32B, "large", "a")
    small = write(tmp_path, "{gpuMemory: 80Gi}", QWEN3_8B, "small", "b")
    ended = rft("plan", large, small)
    assert ended.returncode == ExitCode.DOES_NOT_FIT
    assert "RFTJob small" in ended.stdout
    assert "RFTJob large: the planned" in ended.stderr


def test_without_the_memory_of_the_gpus_there_is_a_plan_and_no_verdict(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{}", QWEN3_8B))
    assert ended.returncode == 0, ended.stderr
    assert "Set compute.gpuMemory" in ended.stdout
    assert "It fits" not in ended.stdout


def test_a_job_on_cpus_is_planned_by_process(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{gpusPerNode: 0}", QWEN3_8B))
    assert ended.returncode == 0, ended.stderr
    assert "GiB on each process" in ended.stdout


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (QWEN3_30B_A3B, "vLLM is not supported for models with experts (mixture of experts); set InProcess"),
        # The memory of these cannot be planned, which is said only where vLLM could compute them.
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "vLLM is not supported for models with experts"),
        ({"model_type": "gpt_neox"}, "vLLM cannot load adapters into models of type gpt_neox; set InProcess, or"),
    ],
    ids=["qwen3_moe", "deepseek_v3", "gpt_neox"],
)
def test_a_model_that_vllm_cannot_take_over_is_refused(rft, tmp_path, configuration, words):
    ended = rft("plan", write(tmp_path, "{gpuMemory: 80Gi}", configuration))
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert f"RFTJob job: spec.compute.rollouts.engine: {words}" in " ".join(ended.stderr.split())


def test_layers_that_a_model_does_not_have_are_refused_with_those_that_it_has(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{gpuMemory: 80Gi}\n  tuning: {targetModules: [q_proj, query]}", QWEN3_8B))
    assert ended.returncode == ExitCode.MODEL_INVALID
    text = " ".join(ended.stderr.split())
    assert "it has no linear layers called query (tuning.targetModules); those that an adapter can train are" in text
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "config.json holds no JSON object"),
        ("{", "config.json: "),
        ('{"model_type": "gemma2"}', "models of type gemma2 are not among those whose memory can be planned"),
    ],
)
def test_a_config_that_says_nothing_is_refused(rft, tmp_path, content, message):
    file = write(tmp_path, "{}", QWEN3_8B)
    (tmp_path / "model/config.json").write_text(content, encoding="utf-8")
    ended = rft("plan", file)
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert message in ended.stderr


def test_a_model_that_is_not_there_is_named(rft, tmp_path):
    ended = rft("plan", write(tmp_path, "{}", QWEN3_8B, uri="pvc://models/qwen"))
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert "pvc://models/qwen: only pods in the cluster can read it" in ended.stderr
    file = write(tmp_path, "{}", QWEN3_8B)
    (tmp_path / "model/config.json").unlink()
    ended = rft("plan", file)
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert "model model: config.json: " in ended.stderr


def test_a_manifest_without_a_job_is_refused(rft, tmp_path):
    (tmp_path / "none.yaml").write_text("kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n", encoding="utf-8")
    ended = rft("plan", tmp_path / "none.yaml")
    assert ended.returncode == ExitCode.CONFIGURATION_INVALID
    assert "no RFTJob, so nothing can be planned" in ended.stderr


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine with one model, of which only config.json can be had."""
    folder = tmp_path / "hub/owner/qwen"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    hub = Hub(tmp_path / "hub")
    ask_hub(hub, monkeypatch)
    monkeypatch.setattr(rft_api.hub, "PAUSES", (0.0,))
    yield hub
    hub.stop()


def test_the_config_of_a_model_on_the_hub_is_fetched_alone(rft, tmp_path, hub):
    ended = rft("plan", write(tmp_path, "{gpuMemory: 80Gi}", {}, uri="hf://owner/qwen"))
    assert ended.returncode == 0, ended.stderr
    assert "8.19 B weights" in ended.stdout
    files = {request.rpartition("/")[2] for request in hub.requests if "/owner/qwen/" in request}
    assert files == {"config.json"}


def test_a_model_that_the_hub_does_not_have_is_named_with_a_way_out(rft, tmp_path, hub):
    ended = rft("plan", write(tmp_path, "{}", {}, uri="hf://owner/other"))
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert "hf://owner/other: the hub has no such model" in ended.stderr
    assert "copy config.json to a folder" in ended.stderr


def test_the_config_of_a_model_in_a_bucket_is_fetched_alone(rft, tmp_path, bucket, monkeypatch):
    model = bucket / "models/qwen"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"never fetched")
    download, fetched = ObjectStore.download, []

    def watch(store, uri, target, objects):
        fetched.extend(item.name for item in objects)
        download(store, uri, target, objects)

    monkeypatch.setattr(ObjectStore, "download", watch)
    for name, uri in (("a", "models/qwen"), ("b", "models/qwen/")):
        ended = rft("plan", write(tmp_path, "{gpuMemory: 80Gi}", {}, name, f"s3://{bucket.name}/{uri}"))
        assert ended.returncode == 0, ended.stderr
        assert "8.19 B weights" in ended.stdout
    assert fetched == ["config.json"] * 2


def test_a_bucket_without_a_model_is_named_with_a_way_out(rft, tmp_path, bucket):
    # Neither a configuration below the address nor one beside it is the model's.
    for folder in ("models/qwen/checkpoint", "models/qwen3"):
        (bucket / folder).mkdir(parents=True)
        (bucket / folder / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    for uri in (f"s3://{bucket.name}/models/qwen", f"s3://{bucket.name}/gone"):
        ended = rft("plan", write(tmp_path, "{}", {}, uri=uri))
        assert ended.returncode == ExitCode.MODEL_INVALID
        assert f"{uri}: is no model: it holds no config.json; to plan without it, copy config.json" in ended.stderr
    ended = rft("plan", write(tmp_path, "{}", {}, uri="s3://no-such-bucket/qwen"))
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert "cannot list s3://no-such-bucket/qwen: " in ended.stderr


def test_a_config_in_a_bucket_that_is_too_large_is_not_fetched(rft, tmp_path, bucket):
    (bucket / "qwen").mkdir()
    with (bucket / "qwen/config.json").open("wb") as file:
        file.truncate(MAXIMUM_CONFIGURATION + 1)
    ended = rft("plan", write(tmp_path, "{}", {}, uri=f"s3://{bucket.name}/qwen"))
    assert ended.returncode == ExitCode.MODEL_INVALID
    assert f"s3://{bucket.name}/qwen: config.json is larger than 8,388,608 bytes" in ended.stderr


def test_a_store_that_does_not_answer_may_be_asked_again(rft, tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    ended = rft("plan", write(tmp_path, "{}", {}, uri=f"s3://{bucket.name}/qwen"))
    assert ended.returncode == ExitCode.STORAGE_UNREACHABLE
    assert f"cannot list s3://{bucket.name}/qwen: " in ended.stderr


PAGE_MODELS = {
    "Llama-3.1-8B": (LLAMA_3_1_8B, "{gpuMemory: 80Gi}"),
    "Qwen3-30B-A3B": (QWEN3_30B_A3B, "{gpusPerNode: 4, gpuMemory: 80Gi, rollouts: {engine: InProcess}}"),
    "Qwen3-32B": (QWEN3_32B, "{gpusPerNode: 8, gpuMemory: 80Gi, rollouts: {placement: Dedicated}}"),
}


@pytest.mark.parametrize("name", PAGE_MODELS)
def test_the_page_shows_the_real_output(rft, tmp_path, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    configuration, compute = PAGE_MODELS[name]
    ended = rft("plan", write(tmp_path, compute, configuration, name.lower().replace(".", "-"), name))
    output = "\n".join(line.rstrip() for line in ended.stdout.strip().splitlines())
    assert output in PAGE.read_text(encoding="utf-8"), output


def test_the_page_names_the_types_that_can_be_planned():
    *most, last = FAMILIES
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"Models of these types can be planned: {', '.join(most)} and {last}." in text
