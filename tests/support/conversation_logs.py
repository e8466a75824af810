"""What the gateway has kept of conversations, as readers of invocation logs see it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from rft_api.conversation_logs import FEEDBACK_FOLDER
from rft_api.invocation_log import InvocationLog, InvocationLogReport
from rft_api.invocation_reading import InvocationLogReader, LoggedPrompt


def objects(folder: Path) -> list[Path]:
    """The objects of a log, without those of feedback."""
    return [file for file in sorted(folder.rglob("*.json.gz")) if FEEDBACK_FOLDER not in file.parts]


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a log, in the order of its objects."""
    return [json.loads(line) for file in objects(folder) for line in gzip.decompress(file.read_bytes()).splitlines()]


def read(folder: Path, with_answers: bool = True, **options: Any) -> tuple[list[LoggedPrompt], InvocationLogReport]:
    """What a job would read of a log."""
    reader = InvocationLogReader(folder, InvocationLog.model_validate(options), with_answers)
    return list(reader), reader.report()
