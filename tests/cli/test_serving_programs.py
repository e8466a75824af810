"""The programs that `rft serve` starts."""

from __future__ import annotations

import threading
from pathlib import Path

import openai
import pytest
from support.gateway_files import data
from support.patience import PATIENCE_SECONDS

from rft_cli.served_models import ServedModels
from rft_cli.serving_folder import ServingFolder
from rft_cli.serving_programs import Gateway


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
