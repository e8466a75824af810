"""Read metrics.jsonl, also while a run appends to it."""

from __future__ import annotations

from pathlib import Path

from rft_api.exact_json import parse_line
from rft_api.foreign.files import open_file
from rft_api.metrics import TrainMetrics, ValidationMetrics, WarmupMetrics, parse_metrics

_LONGEST_LINE = 4 << 20
"""Bytes of a line that are read at once; a longer line is none of a trainer, and its parts are left out."""


class History:
    """The metrics of the steps and validations of a run, by step.

    A trainer that resumes repeats the steps since its last checkpoint. When a step has two lines, the later one counts.
    """

    def __init__(self, file: Path):
        self.training: dict[int, TrainMetrics] = {}
        self.validation: dict[int, ValidationMetrics] = {}
        self.warmup: dict[int, WarmupMetrics] = {}
        self._file = file
        self._offset = 0

    def update(self) -> None:
        """Read the lines that were appended since the last call."""
        if not self._file.exists():
            return
        if self._file.stat().st_size < self._offset:  # A trainer that resumed removed the steps after its checkpoint.
            self._offset = 0
            self.training.clear()
            self.validation.clear()
            self.warmup.clear()
        with open_file(self._file) as file:
            file.seek(self._offset)
            while line := file.readline(_LONGEST_LINE):
                if len(line) < _LONGEST_LINE and not line.endswith(b"\n"):
                    break  # The trainer is still writing this line.
                self._offset += len(line)
                self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            metrics = parse_metrics(parse_line(line))
        except ValueError:
            return  # A crash cut this line off; the lines of the next attempt follow.
        if isinstance(metrics, TrainMetrics):
            self.training[metrics.step] = metrics
        elif isinstance(metrics, WarmupMetrics):
            self.warmup[metrics.step] = metrics
        else:
            self.validation[metrics.step] = metrics

    @property
    def steps(self) -> list[TrainMetrics]:
        """The metrics of the training steps, in the order of the steps."""
        return [self.training[step] for step in sorted(self.training)]

    @property
    def validations(self) -> list[ValidationMetrics]:
        """The metrics of the validations, in the order of the steps."""
        return [self.validation[step] for step in sorted(self.validation)]

    @property
    def warmup_steps(self) -> list[WarmupMetrics]:
        """The metrics of the steps of a warm-up alone, in the order of the steps."""
        return [self.warmup[step] for step in sorted(self.warmup)]

    @property
    def is_empty(self) -> bool:
        """Whether there are no metrics yet."""
        return not (self.training or self.validation or self.warmup)
