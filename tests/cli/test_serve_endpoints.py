"""`rft serve` with manifests: a real vLLM, a real S3 server, and the adapter loader; and what ends it early.

vLLM takes long to start, so one test asks everything of it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import uuid
from pathlib import Path

import psutil
import pytest
import yaml
from support.conversation_logs import records
from support.loader import write_adapter
from support.patience import PATIENCE_SECONDS, wait_until
from support.serving import runs, serving, start_serve
from support.tiny import write_model

from rft_api.exit_codes import ExitCode

MESSAGES = [{"role": "user", "content": "3142"}]
MODULES = ("q_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `small` and the adapters `first`, `second` and `wide`, whose rank is 16."""
    folder = tmp_path_factory.mktemp("models")
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    small = write_model(folder / "small", hidden=128, tied=False)
    write_adapter(folder / "first", small, seed=1, modules=MODULES)
    write_adapter(folder / "second", small, seed=2, modules=MODULES)
    write_adapter(folder / "wide", small, rank=16)
    return folder


def write_manifest(file: Path, **specs: dict[str, object]) -> Path:
    documents = [
        {"apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint", "metadata": {"name": name}, "spec": spec}
        for name, spec in specs.items()
    ]
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return file


def place(manifest: Path, line: str) -> str:
    """The file, and the number of the first of its lines that begins with a text."""
    lines = manifest.read_text(encoding="utf-8").splitlines()
    return f"{manifest}:{next(number for number, each in enumerate(lines, 1) if each.strip().startswith(line))}"


def test_a_base_and_adapters_from_s3_and_a_folder(tmp_path, models, s3):
    bucket = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    uri = f"s3://{bucket.name}"
    for name in ("small", "second"):
        shutil.copytree(models / name, bucket / name)
    shutil.copytree(models / "first", tmp_path / "first")
    redact = {"patterns": [{"pattern": "31", "replacement": "[number]"}]}
    serving_settings = {"gpus": 0, "maxModelLength": 128, "maxAdapterRank": 8, "adapterSources": [f"{uri}/"]}
    manifest = write_manifest(
        tmp_path / "endpoints.yaml",
        small={
            "model": {"uri": f"{uri}/small"}, "autoscale": {}, "serving": serving_settings,
            "price": {"promptTokens": "1", "completionTokens": "2"},
        },
        first={"baseEndpoint": "small", "adapter": {"uri": "first"}},
        second={
            "baseEndpoint": "small", "adapter": {"uri": f"{uri}/second"}, "price": {"promptTokens": "3"},
            "logs": {"uri": f"{uri}/logs", "credentials": {"secretName": "s3"}, "redact": redact},
        },
    )  # fmt: skip
    process = start_serve(manifest, "--json", environment=s3.environment())
    # Three keepers, the loader, the gateway, and vLLM with its engine.
    with serving(process, tmp_path / "serving", programs=7) as served:
        names = ["small", "first", "second"]
        with served.client() as client:
            assert [model.id for model in client.models.list()] == sorted(names)
            answers = [
                client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=6, temperature=0)
                for name in names
            ]
        assert len({answer.choices[0].message.content for answer in answers}) == 3
        entries = served.entries()
        assert [(entry["model"], entry["base"]) for entry in entries] == [(name, "small") for name in names]
        prices = [(entry["prompt_price"], entry["completion_price"]) for entry in entries]
        assert prices[0] == prices[1] != prices[2]
        wait_until(lambda: records(bucket / "logs"))
        [record] = records(bucket / "logs")
        assert "[number]42" in str(record["input"])
        assert "3142" not in str(record)
    assert process.stderr is not None
    notes = process.stderr.read().decode()
    (folder,) = (path for path in (tmp_path / "serving" / "models").iterdir() if path.is_dir())
    for note in (
        f"remark: {place(manifest, 'autoscale')}: spec.autoscale: has no effect here",
        "spec.logs.credentials: has no effect here",
        f"small: fetching {uri}/small to {folder}",
        "small: ready",
        "first: ready",
        "second: ready",
        f"second: conversations are kept in {uri}/logs",
        "small: 1 request, ",
        "stopping; usage is in ",
    ):
        assert note in notes


def test_a_base_that_is_no_model_is_refused_before_vllm_starts(tmp_path, models, s3):
    bucket = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    shutil.copytree(models / "first", bucket / "first")
    manifest = write_manifest(tmp_path / "endpoints.yaml", small={"model": {"uri": f"s3://{bucket.name}/first"}})
    process = start_serve(manifest, environment=s3.environment())
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == ExitCode.MODEL_INVALID
    assert (
        f"error: {place(manifest, 'uri: ')}: spec.model.uri: s3://{bucket.name}/first: is no model: " in errors.decode()
    )
    assert b"starting vLLM" not in output
    assert not list((tmp_path / "serving").glob("vllm-*.log"))


def test_an_adapter_that_does_not_fit_ends_it_while_vllm_starts(tmp_path, models):
    manifest = write_manifest(
        tmp_path / "endpoints.yaml",
        small={"model": {"uri": str(models / "small")}, "serving": {"gpus": 0, "maxAdapterRank": 8}},
        wide={"baseEndpoint": "small", "adapter": {"uri": str(models / "wide")}},
    )
    process = start_serve(manifest)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == ExitCode.MODEL_INVALID
    text = errors.decode()
    assert f"error: {place(manifest, f'uri: {models}/wide')}: spec.adapter.uri: {models}/wide: " in text
    assert "rank 16 is above the 8 that the server takes; raise the base endpoint's serving.maxAdapterRank" in text


def test_told_to_end_while_it_fetches_nothing_is_left(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        manifest = write_manifest(tmp_path / "endpoints.yaml", small={"model": {"uri": "s3://bucket/small"}})
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        }  # fmt: skip
        process = start_serve(manifest, environment=environment)
        own = psutil.Process(process.pid)
        wait_until(lambda: len(own.children(recursive=True)) >= 2)  # a keeper and the loader
        descendants = own.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0
        wait_until(lambda: not any(map(runs, descendants)))
