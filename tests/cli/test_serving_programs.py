"""The programs that `rft serve` starts."""

from __future__ import annotations

import io
import os
import threading
import uuid
from pathlib import Path

import openai
import pytest
from rich.console import Console
from support.gateway_files import data
from support.patience import PATIENCE_SECONDS
from support.tiny import write_model

from rft_cli import serving_programs
from rft_cli.served_models import ServedModels
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import Gateway, run_fetch
from rft_cli.stage_display import StageDisplay


def test_variables_of_opentelemetry_for_other_programs_do_not_end_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    files = ServingFolder(tmp_path / "serving")
    with files.lock():
        token = files.prepare("default")
        files.write_routes(ServedModels("tuned", "base", "/model", None).routes("http://127.0.0.1:9", None))
        gateway = Gateway(files, "127.0.0.1", 0)
        try:
            assert gateway.wait_until_ready(threading.Event())
            # files for fine-tuning are kept in the folder
            client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, timeout=PATIENCE_SECONDS)
            file = client.files.create(file=("train.jsonl", data()), purpose="fine-tune")
            assert (files.files / "default" / f"{file.id}.jsonl").read_bytes() == data()
        finally:
            gateway.program.stop()


def test_a_base_model_that_is_fetched_says_how_many_megabytes_are_left(
    tmp_path: Path, s3, monkeypatch: pytest.MonkeyPatch
):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    write_model(bucket / "model")
    os.truncate(bucket / "model/model.safetensors", 200_000_000)
    monkeypatch.setattr(serving_programs, "POLL_SECONDS", 0.01)
    stage = Stages()
    target = tmp_path / "model"
    assert run_fetch(f"s3://{bucket.name}/model", target, tmp_path / "log", threading.Event(), stage)
    assert {(planned, unit) for planned, unit in stage.plans if planned} == {(200, "MB")}


class Stages(StageDisplay):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.plans: list[tuple[int, str]] = []

    def update(self, text: str, completed: int = 0, planned: int = 0, unit: str = "", detail: str = "") -> None:
        self.plans.append((planned, unit))
        super().update(text, completed, planned, unit, detail)
