"""Shows how far a stage of a command is: in a line that changes on a terminal, and elsewhere in a line at intervals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from rft_api.foreign.text import one_line
from rft_api.progress import Pace, Report, format_seconds
from rft_cli.console import make_console

SILENCE_SECONDS = 10.0
"""Without a terminal, a line is printed when nothing was printed for so many seconds."""
_REFRESH_SECONDS = 0.25
_MARGIN = 4
"""Columns of the sign that turns, and of what is kept free."""
_LONGEST_LINE = 300


class StageDisplay:
    """Shows one stage after the other, with the time left where the amount of work is known. See `shown_stage`.

    Args:
        console: the console that shows it.
        clock: returns the time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console, self._clock = console, clock
        self._status = console.status("") if console.is_terminal else None
        self._lock = threading.Lock()
        self._last_line = self._begin = clock()
        self._pace = Pace(self._begin)
        self._text = self._unit = self._detail = ""
        self._completed = self._planned = 0

    def update(self, text: str, completed: int = 0, planned: int = 0, unit: str = "", detail: str = "") -> None:
        """Say what the command does now. Another text, or another amount of work, begins another stage.

        Args:
            text: what it does, such as `scoring`.
            completed: the units that are complete.
            planned: the units of the stage; 0 when nobody knows, so that no time left is stated.
            unit: the unit, such as `samples`.
            detail: what the program that is waited for says.
        """
        with self._lock:
            if (text, planned) != (self._text, self._planned):
                if text != self._text:
                    self._begin = self._clock()
                self._pace = Pace(self._clock(), completed)
            self._text, self._unit, self._detail = text, unit, detail
            self._completed, self._planned = completed, planned

    def report_bytes(self, text: str) -> Report:
        """Return a function that takes the bytes of a stage that are read or copied, and their total."""
        self.update(text)
        return lambda completed, total: self.update(text, completed // 10**6, total // 10**6, "MB")

    def describe(self) -> str:
        """Return the stage in one line: what is done, how far it is, and the time left or else since its start."""
        with self._lock:
            now, parts = self._clock(), [self._text]
            if self._planned:
                parts.append(f"{self._completed:,}/{self._planned:,} {self._unit}")
            elif self._completed:
                parts.append(f"{self._completed:,} {self._unit}")
            seconds_left = self._pace.seconds_left(self._completed, self._planned, now)
            if seconds_left is not None:
                parts.append(f"about {format_seconds(seconds_left)} left")
            else:
                parts.append(f"for {format_seconds(now - self._begin)}")
            return one_line(" · ".join([*parts, *filter(None, [self._detail])]), _LONGEST_LINE)

    def refresh(self) -> None:
        """Show the stage: on a terminal at once, elsewhere when nothing was printed for `SILENCE_SECONDS`."""
        if not self._text:
            return
        if self._status is not None:
            line = Text(self.describe())
            line.truncate(max(self._console.width - _MARGIN, 1), overflow="ellipsis")
            self._status.update(line)
        elif self._clock() - self._last_line >= SILENCE_SECONDS:
            self._last_line = self._clock()
            self._console.print(Text(self.describe()), soft_wrap=True)

    @contextmanager
    def refreshed(self) -> Iterator[None]:
        """Refresh from a background thread inside the context, so that a stage may wait for whatever it needs."""
        ended = threading.Event()

        def refresh() -> None:
            while not ended.wait(_REFRESH_SECONDS):
                self.refresh()

        thread = threading.Thread(target=refresh, name="stage-display", daemon=True)
        if self._status is not None:
            self._status.start()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if self._status is not None:
                self._status.stop()


@contextmanager
def shown_stage(console: Console | None = None) -> Iterator[StageDisplay]:
    """Yield a display of the stages of a command.

    Args:
        console: the console that shows it; by default that of standard error, so that results can be piped elsewhere.
    """
    display = StageDisplay(console or make_console(stderr=True))
    with display.refreshed():
        yield display
