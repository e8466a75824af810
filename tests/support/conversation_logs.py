"""What the gateway has kept of conversations, as readers of invocation logs see it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rft_api.invocation_feedback import is_feedback
from rft_api.invocation_log import InvocationLog, InvocationLogReport
from rft_api.invocation_reading import InvocationLogReader, LoggedPrompt


def objects(folder: Path) -> list[Path]:
    """The objects of a log, without those of feedback."""
    return [file for file in sorted(folder.rglob("*.json.gz")) if not is_feedback(str(file.relative_to(folder)))]


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a log, in the order of its objects."""
    return _lines(objects(folder))


def feedback(folder: Path) -> list[dict[str, Any]]:
    """The lines of feedback of a log, in the order of its objects."""
    files = sorted(folder.rglob("*.json.gz"))
    return _lines([file for file in files if is_feedback(str(file.relative_to(folder)))])


def read(folder: Path, with_answers: bool = True, **options: Any) -> tuple[list[LoggedPrompt], InvocationLogReport]:
    """What a job would read of a log."""
    reader = InvocationLogReader(folder, InvocationLog.model_validate(options), with_answers)
    return list(reader), reader.report()


def _lines(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
