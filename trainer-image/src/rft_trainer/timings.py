"""Measures how long each stage of a run takes, over all its starts, in the run's `timings.json`."""

from __future__ import annotations

import json
import time

from rft_api.files import atomic_write
from rft_api.foreign.files import MAXIMUM_DOCUMENT, read_json
from rft_api.run_folder import RunFolder


class StageClock:
    """Adds the duration of each stage to the run's file when the stage ends."""

    def __init__(self, folder: RunFolder):
        self._path = folder.timings
        self._stage: str | None = None
        self._since = 0.0

    def enter(self, stage: str | None) -> None:
        """End the current stage if it is another one, and begin this one; None begins no stage."""
        if stage == self._stage:
            return
        now = time.monotonic()
        if self._stage is not None:
            seconds = self.read()
            seconds[self._stage] = round(seconds.get(self._stage, 0.0) + now - self._since, 3)
            atomic_write(self._path, json.dumps(seconds, indent=2) + "\n")
        self._stage, self._since = stage, now

    def read(self) -> dict[str, float]:
        """Return the seconds of each stage so far, in the order in which the stages first ended."""
        if not self._path.exists():
            return {}
        seconds: dict[str, float] = read_json(self._path, MAXIMUM_DOCUMENT)
        return seconds
