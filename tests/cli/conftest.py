"""A finished run's folder, a bucket, and a way to call the command line."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.finished_runs import write_run
from typer.testing import CliRunner

from rft_api.run_folder import RunFolder
from rft_cli import stage_display
from rft_cli.main import app


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def rft(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Calls the command line. What it says while it works depends on the speed of the machine, and is left out."""
    monkeypatch.setattr(stage_display, "SILENCE_SECONDS", math.inf)

    def call(*arguments: object) -> Ended:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def finished_run(tmp_path: Path) -> RunFolder:
    """A run of 60 steps with everything in it."""
    folder = RunFolder(tmp_path / "run")
    write_run(folder)
    return folder


@pytest.fixture
def bucket(s3, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket of a real object store, which the environment names: a folder whose files are its objects."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
