"""The run's `metrics.jsonl`: appending lines, reading them back, and cutting off what a resumed run will redo."""

from __future__ import annotations

import json
from pathlib import Path

from rft_api.files import atomic_write
from rft_api.metrics import TrainMetrics, ValidationMetrics, parse_metrics
from rft_api.model import Json
from rft_api.run_folder import RunFolder


def append_metrics(folder: RunFolder, metrics: TrainMetrics | ValidationMetrics) -> None:
    """Add a line."""
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(metrics.model_dump_json(by_alias=True) + "\n")


def read_steps(folder: RunFolder) -> list[TrainMetrics]:
    """Return the training steps."""
    return [metrics for metrics in _read(folder) if isinstance(metrics, TrainMetrics)]


def read_validations(folder: RunFolder) -> list[ValidationMetrics]:
    """Return the validations."""
    return [metrics for metrics in _read(folder) if isinstance(metrics, ValidationMetrics)]


def rewind(folder: RunFolder, step: int) -> None:
    """Remove what is about steps after `step`: lines, rollouts, validations. A run that goes on writes them again."""
    kept = [text for text, line in _lines(folder.metrics) if line["step"] <= step]
    atomic_write(folder.metrics, "".join(f"{text}\n" for text in kept))
    for path in [*folder.rollouts.glob("step-*.parquet"), *folder.validation(0).parent.glob("step-*.parquet")]:
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def _read(folder: RunFolder) -> list[TrainMetrics | ValidationMetrics]:
    return [parse_metrics(line) for _, line in _lines(folder.metrics)]


def _lines(path: Path) -> list[tuple[str, Json]]:
    """Each whole line, as it stands and as an object."""
    if not path.exists():
        return []
    # The last line is torn when the process was killed while writing it; an earlier one cannot be.
    texts = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [(text, json.loads(text)) for text in texts]
