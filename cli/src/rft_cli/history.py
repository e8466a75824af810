"""Reads metrics.jsonl, also while it grows."""

from __future__ import annotations

import json
from pathlib import Path

from rft_api.metrics import TrainMetrics, ValidationMetrics, parse_metrics


class History:
    """The steps and validations of a run, by step.

    After a restart the trainer repeats the steps since its last checkpoint: the later line counts.
    """

    def __init__(self, file: Path):
        self.training: dict[int, TrainMetrics] = {}
        self.validation: dict[int, ValidationMetrics] = {}
        self._file = file
        self._offset = 0

    def update(self) -> None:
        """Reads the lines that were added since the last call."""
        if not self._file.exists():
            return
        if self._file.stat().st_size < self._offset:  # a restart has cut off steps without a checkpoint
            self._offset = 0
            self.training.clear()
            self.validation.clear()
        with self._file.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._offset += len(line)
                self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            metrics = parse_metrics(json.loads(line))
        except ValueError:
            return  # a line cut short by a crash, followed by the restart's lines
        if isinstance(metrics, TrainMetrics):
            self.training[metrics.step] = metrics
        else:
            self.validation[metrics.step] = metrics

    @property
    def steps(self) -> list[TrainMetrics]:
        """Training steps in order."""
        return [self.training[step] for step in sorted(self.training)]

    @property
    def validations(self) -> list[ValidationMetrics]:
        """Validations in order."""
        return [self.validation[step] for step in sorted(self.validation)]
