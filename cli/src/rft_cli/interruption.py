"""Counts Ctrl-C and SIGTERM, so that a run ends after a checkpoint and not in the middle of a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Counts Ctrl-C and SIGTERM: the first one ends the run after a checkpoint, the second one ends it at once."""

    def __init__(self) -> None:
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Handle the signals until the block ends, and then restore the previous handlers."""

        def count_signal(number: int, frame: FrameType | None) -> None:
            self.count += 1

        previous = {number: signal.signal(number, count_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
