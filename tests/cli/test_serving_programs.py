"""The programs that `rft serve` starts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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
        files.prepare("default")
        files.write_routes(ServedModels("tuned", "base", "/model", None).routes("http://127.0.0.1:9", None))
        gateway = Gateway(files, "127.0.0.1", 0)
        try:
            assert gateway.wait_until_ready(threading.Event())
        finally:
            gateway.program.stop()
