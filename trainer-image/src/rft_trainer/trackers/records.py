"""Reads what a tracker is sent from the files of a run: lines of metrics.jsonl, samples, configuration and result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_api.exact_json import parse_text
from rft_api.foreign.files import open_file, read_document
from rft_api.model import Json
from rft_api.run_folder import RunFolder
from rft_api.summary import Evaluation, Summary
from rft_api.tables import read_table
from rft_api.tracker_state import Position
from rft_api.trainer_config import TrainerConfig

LINE_MARKS = ("train/tokens", "validation/seconds", "warmup/tokens")
"""Points that every line of its kind has; a tracker has as many lines as it has points of these names."""
RESULT_MARKS = ("result/gain/mean", "result/loss/change/mean")
"""Points of which every result has at least one."""
LINES_AT_ONCE = 100
LONGEST_TEXT = 4000
"""Characters of a prompt or completion in a table of samples."""
_LARGEST_LINE = 16 << 20
_CHUNK = 1 << 20
_NOT_CONFIGURED = {"name": True, "namespace": True, "output": True, "trackers": True}
"""Fields of a configuration that are not part of how a run trains, or say so elsewhere."""


@dataclass(frozen=True)
class Table:
    """A table."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Line:
    """A line of metrics.jsonl, as trackers take it."""

    split: str
    """`train`, `validation` or `warmup`."""
    step: int
    """Optimizer steps done."""
    points: dict[str, float]
    """Its numbers, by their place in the line, such as `train/components/unit`; those that are null are absent."""
    moment: float
    """When it was made, in Unix seconds; when it was read, if that is not known any more."""
    samples: Table | None
    """Completions of a validation."""
    end: Position
    """The place behind it in the file."""


@dataclass(frozen=True)
class Result:
    """The result of a run, as trackers take it."""

    step: int
    """Number of optimizer steps of the run."""
    points: dict[str, float]
    """The numbers of the comparison, such as `result/tuned/reward`."""
    comparison: Table
    """The models before and after, a column for each."""
    samples: Table | None
    """Completions of the same prompts by both models."""


def lines_from(folder: RunFolder, start: Position, samples: int) -> Iterator[Line]:
    """Yield the complete lines of metrics.jsonl from a place on.

    Args:
        folder: the run's folder.
        start: the place.
        samples: number of completions that go with a validation.

    Raises:
        ValueError: when a line is none.
        OSError: when a file cannot be read.
    """
    if not folder.metrics.exists() or folder.metrics.stat().st_size <= start.bytes:
        return
    digest, count, size = _digest(folder, start.bytes), start.lines, start.bytes
    with open_file(folder.metrics) as file:
        file.seek(start.bytes)
        while (text := file.readline(_LARGEST_LINE)).endswith(b"\n"):
            digest.update(text)
            count, size = count + 1, size + len(text)
            yield _line(
                folder, parse_text(text.decode()), samples, Position(lines=count, bytes=size, sha256=digest.hexdigest())
            )


def is_at(folder: RunFolder, position: Position) -> bool:
    """Return whether metrics.jsonl still begins with the bytes before a place."""
    if position.bytes == 0:
        return True
    if not folder.metrics.exists() or folder.metrics.stat().st_size < position.bytes:
        return False
    return _digest(folder, position.bytes).hexdigest() == position.sha256


def position_of(folder: RunFolder, lines: int) -> Position:
    """Return the place behind the first lines of metrics.jsonl, which has at least so many.

    Raises:
        ValueError: when it has fewer.
    """
    end = Position()
    for line in lines_from(folder, end, 0) if lines else ():
        end = line.end
        if end.lines == lines:
            return end
    if lines:
        raise ValueError(f"{folder.metrics} has fewer than {lines} lines")
    return end


def _digest(folder: RunFolder, size: int) -> hashlib._Hash:
    digest = hashlib.sha256()
    if size:
        with open_file(folder.metrics) as file:
            while size and (chunk := file.read(min(size, _CHUNK))):
                digest.update(chunk)
                size -= len(chunk)
    return digest


def _line(folder: RunFolder, line: Json, samples: int, end: Position) -> Line:
    split, step = str(line["split"]), int(line["step"])
    file = folder.validation(step) if split == "validation" else folder.rollout(step)
    has_file = file.exists()
    table = _samples(file, samples) if split == "validation" and samples and has_file else None
    numbers = {key: value for key, value in line.items() if key not in ("split", "step", "endedAt")}
    # Lines of older versions have no time. The copy of a run in an object store has lost the times of its files.
    moment = line.get("endedAt") or (file.stat().st_mtime if has_file else time.time())
    return Line(split, step, dict(_points(numbers, split)), moment, table, end)


def _points(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a JSON value with their places."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _points(inner, f"{name}/{key}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value


def configuration(config: TrainerConfig) -> dict[str, str]:
    """Return the configuration as parameters, by their place, such as `hyperparameters.learningRate`.

    Addresses of this start, which the next one has others of, are left out.
    """
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_CONFIGURED)
    for target in document["rewards"].values():
        target.pop("url", None)
        target.pop("tokenFile", None)
    return dict(_parameters(document, ""))


def _parameters(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _parameters(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for index, inner in enumerate(value):
            yield from _parameters(inner, f"{name}.{index}")
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_result(folder: RunFolder, samples: int) -> Result | None:
    """Return the result of a run; None while it has none.

    Raises:
        ValueError, OSError: when a file of the run cannot be read.
    """
    if not folder.summary.exists():
        return None
    summary = read_document(folder.summary, Summary)
    models = {"base": summary.base, "warmup": summary.warmup, "tuned": summary.tuned}
    there = {name: model for name, model in models.items() if model is not None}
    parts = {**there, "gain": summary.gain, "loss": summary.loss}
    document = {name: part.model_dump(mode="json", by_alias=True) for name, part in parts.items() if part is not None}
    points = dict(_points(document, "result"))
    return Result(summary.steps, points, _comparison(there), _pairs(folder, samples) if samples else None)


def _comparison(models: dict[str, Evaluation]) -> Table:
    """Return the table before and after: a row for each number, a column for each model."""
    flat = [dict(_points(model.model_dump(mode="json", by_alias=True), "")) for model in models.values()]
    names = dict.fromkeys(name for numbers in flat for name in numbers)
    rows = [[name.removeprefix("/"), *(numbers.get(name) for numbers in flat)] for name in names]
    return Table(["", *models], rows)


def _samples(file: Path, count: int) -> Table:
    """Return the first completions of a file."""
    columns = ["source", "prompt", "completion", "referenceAnswer", "reward", "error"]
    return Table(columns, [[_cut(row[column]) for column in columns] for row in read_table(file)[:count]])


def _pairs(folder: RunFolder, count: int) -> Table | None:
    """Return the first completions of the base model and of the tuned model, which have the same prompts."""
    files = folder.evaluation("base"), folder.evaluation("tuned")
    if not all(file.exists() for file in files):
        return None
    rows = [
        [*(base[column] for column in ("source", "prompt", "referenceAnswer", "completion", "reward")),
         tuned["completion"], tuned["reward"]]
        for base, tuned in zip(*(read_table(file)[:count] for file in files), strict=True)
    ]  # fmt: skip
    columns = ["source", "prompt", "referenceAnswer", "base", "baseReward", "tuned", "tunedReward"]
    return Table(columns, [[_cut(value) for value in row] for row in rows])


def _cut(value: Any) -> Any:
    """Return a value of a table; a long text is cut."""
    if not isinstance(value, str) or len(value) <= LONGEST_TEXT:
        return value
    return f"{value[:LONGEST_TEXT]} ... ({len(value) - LONGEST_TEXT:,} more characters)"
