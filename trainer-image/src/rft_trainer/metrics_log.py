"""The run's `metrics.jsonl`: appends lines, reads them, and removes those of steps that a resumed run repeats."""

from __future__ import annotations

from pathlib import Path

from rft_api.exact_json import parse_text
from rft_api.files import atomic_write, open_in_place
from rft_api.foreign.files import read_file
from rft_api.metrics import Metrics, TrainMetrics, ValidationMetrics, WarmupMetrics, parse_metrics
from rft_api.model import Json
from rft_api.run_folder import RunFolder

_LARGEST_LOG = 1 << 30
"""Largest size in bytes; a step has about 2 KiB."""


def append_metrics(folder: RunFolder, metrics: Metrics) -> None:
    """Append a line with the metrics."""
    with open_in_place(folder.metrics) as file:
        file.write(f"{metrics.model_dump_json(by_alias=True)}\n".encode())


def read_steps(folder: RunFolder) -> list[TrainMetrics]:
    """Return the metrics of the training steps."""
    return [metrics for metrics in _read(folder) if isinstance(metrics, TrainMetrics)]


def read_validations(folder: RunFolder) -> list[ValidationMetrics]:
    """Return the metrics of the validations."""
    return [metrics for metrics in _read(folder) if isinstance(metrics, ValidationMetrics)]


def read_warmup_steps(folder: RunFolder) -> list[WarmupMetrics]:
    """Return the metrics of the steps of a warm-up alone."""
    return [metrics for metrics in _read(folder) if isinstance(metrics, WarmupMetrics)]


def rewind(folder: RunFolder, step: int) -> None:
    """Remove lines, rollouts and validations of the steps after `step`, which a resumed run makes again."""
    lines = [text for text, line in _lines(folder.metrics) if line["step"] <= step]
    atomic_write(folder.metrics, "".join(f"{text}\n" for text in lines))
    for path in [*folder.rollouts.glob("step-*.parquet"), *folder.validation(0).parent.glob("step-*.parquet")]:
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def _read(folder: RunFolder) -> list[Metrics]:
    return [parse_metrics(line) for _, line in _lines(folder.metrics)]


def _lines(path: Path) -> list[tuple[str, Json]]:
    """Return each complete line, as text and as an object."""
    if not path.exists():
        return []
    # Only the last line can be incomplete, when the process was killed while it wrote the line.
    texts = read_file(path, _LARGEST_LOG).decode("utf-8").split("\n")[:-1]
    return [(text, parse_text(text)) for text in texts]
