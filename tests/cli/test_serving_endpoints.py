"""How `rft serve` waits for the adapters of manifests: the real loader, and a server that speaks vLLM's protocol."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.loader import PretendedServer, write_adapter
from support.patience import PATIENCE_SECONDS, wait_until
from support.tiny import write_model

from rft_api.exit_codes import ExitCode, RunError
from rft_cli import serving_endpoints, stage_display
from rft_cli.processes import Program
from rft_cli.served_endpoints import plan_servers
from rft_cli.serving_endpoints import EndpointServing
from rft_cli.serving_folder import ServingFolder


class Start:
    """A start of the endpoints `small` and `tuned` in a thread of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = ServingFolder(folder / "serving")
        self.stop = threading.Event()
        self._output = io.StringIO()

    @property
    def notes(self) -> str:
        """What it has printed."""
        return self._output.getvalue()

    def write(self, adapter: str) -> None:
        """Writes the manifests, with the address of the adapter."""
        sources = [adapter] if "://" in adapter else []
        specs = {
            "small": {"model": {"uri": "small"}, "serving": {"gpus": 0, "adapterSources": sources}},
            "tuned": {"baseEndpoint": "small", "adapter": {"uri": adapter}},
        }
        documents = [
            {"apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint", "metadata": {"name": name}, "spec": spec}
            for name, spec in specs.items()
        ]
        (self.folder / "endpoints.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")

    def models(self) -> list[str]:
        """Starts, and returns the names of the models; nothing when it was told to stop."""
        servers, _ = plan_servers([self.folder / "endpoints.yaml"], ())
        serving = EndpointServing(servers, None, Console(file=self._output, width=1000))
        with ExitStack() as stack, self.files.lock():
            routes = serving.start(self.files, stack, self.stop)
        return [route.model for route in routes or []]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    write_model(tmp_path / "small", hidden=128, tied=False)
    pretended = PretendedServer()

    class Server:
        """In place of vLLM."""

        url = pretended.url

        def __init__(self, command: list[str], log: Path, environment: dict[str, str]):
            pretended.adapters.clear()  # as one that starts: with the adapters of before, all would be ready at once
            self.program = Program(["sleep", "infinity"], log, environment)

        def is_ready(self) -> bool:
            return True

        def fail_if_ended(self) -> None: ...

    monkeypatch.setattr(serving_endpoints, "Server", Server)
    yield Start(tmp_path)
    pretended.stop()


def test_copies_of_earlier_starts_are_removed(start: Start):
    start.write("tuned")
    write_adapter(start.folder / "tuned", start.folder / "small")
    earlier = start.files.adapters / "small" / "former-0123456789ab" / "0123456789abcdef"
    earlier.mkdir(parents=True)
    assert start.models() == ["small", "tuned"]
    assert not earlier.exists()
    (copy,) = (start.files.adapters / "small").glob("*/*")
    # A folder that has been trained anew: the next start removes the copy of before.
    write_adapter(start.folder / "tuned", start.folder / "small", rank=4)
    assert start.models() == ["small", "tuned"]
    newer = set((start.files.adapters / "small").glob("*/*")) - {copy}
    assert start.models() == ["small", "tuned"]
    assert set((start.files.adapters / "small").glob("*/*")) == newer


def test_while_a_store_does_not_answer_it_waits_and_says_so(start: Start, s3, monkeypatch: pytest.MonkeyPatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(stage_display, "SILENCE_SECONDS", 0.0)
    start.write("s3://bucket/tuned")
    with ThreadPoolExecutor() as pool:
        models = pool.submit(start.models)
        try:
            said = ("failed for now", "waiting for tuned · for ")
            wait_until(lambda: models.done() or all(text in start.notes for text in said), lambda: start.notes)
            assert not models.done()
        finally:
            start.stop.set()
        assert models.result(PATIENCE_SECONDS) == []
    assert "tuned: failed for now: cannot list s3://bucket/tuned" in start.notes


def test_an_adapter_that_is_not_there_ends_it(start: Start, s3, monkeypatch: pytest.MonkeyPatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
    start.write(f"s3://{bucket.name}/tuned")
    with pytest.raises(RunError, match="nothing is stored there") as refusal:
        start.models()
    assert refusal.value.code is ExitCode.MODEL_INVALID
