"""Show the progress of a run: in a live panel on a terminal, and elsewhere in lines of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rft_api.foreign.text import printable
from rft_api.metrics import Metrics
from rft_api.progress import PHASE_TITLES, Phase, Progress, describe_progress, format_seconds
from rft_cli.history import History
from rft_cli.live_view import LiveView
from rft_cli.texts import number, signed, sparkline

BAR_WIDTH = 40
SILENCE_SECONDS = 10.0
"""Without a terminal, a line is printed when nothing was printed for so many seconds."""
_CURVES = (
    ("reward", "train", "reward", 3),
    ("validation reward", "validation", "reward", 3),
    ("episode length", "train", "episode_length", 1),
    ("gradient norm", "train", "gradient_norm", 3),
    ("loss", "warmup", "loss", 3),
    ("validation loss", "warmup", "validation_loss", 3),
    ("gradient norm", "warmup", "gradient_norm", 3),
)
"""The metrics that are shown: title, split, field, and number of decimals."""


class Display(LiveView):
    """Shows the progress of a run. It is a context manager, which leaves the terminal to the report at the end.

    Args:
        console: the console that shows it.
        job: the name of the job.
        history: the metrics of the run so far.
        clock: returns the time in seconds.
    """

    def __init__(self, console: Console, job: str, history: History, clock: Callable[[], float] = time.monotonic):
        super().__init__(console)
        self._console = console
        self._job = job
        self._history = history
        self._clock = clock
        self._start = clock()
        self._last_line = self._start
        self._activity: tuple[Phase, str] | None = None
        self._activity_start = self._start
        self._phase: Phase | None = None
        self._last_step = {"train": -1, "validation": -1, "warmup": -1}
        history.update()
        self._new_rows()  # Steps that an earlier start of the same run has printed are not printed again.
        self._note = ""

    def note(self, message: str) -> None:
        """Show a message, which stays visible until the next one."""
        self._note = message
        if not self.is_live:
            self._line(message)

    def update(self, progress: Progress) -> None:
        """Show the progress.

        Without a terminal, each phase, step and validation gets a line. After `SILENCE_SECONDS` without any of these,
        a line says what the run is doing.
        """
        self._history.update()
        if (progress.phase, progress.message) != self._activity:
            self._activity = progress.phase, progress.message
            self._activity_start = self._clock()
        if self.is_live:
            self.show(self._panel(progress))
            return
        lines = [_sentence(row, progress.total_steps) for row in self._new_rows()]
        if progress.phase != self._phase:
            self._phase = progress.phase
            lines.insert(0 if progress.phase == "Training" else len(lines), _phase_line(progress))
        if lines:
            lines[-1] = " · ".join([lines[-1], *_remarks(progress)])
        elif self._clock() - self._last_line >= SILENCE_SECONDS:
            lines = [printable(describe_progress(progress, self._clock() - self._activity_start))]
        for line in lines:
            self._line(line)

    def _line(self, text: str) -> None:
        self._last_line = self._clock()
        elapsed = format_seconds(self._last_line - self._start)
        self._console.print(Text(f"[{elapsed:>7}] {text}"), soft_wrap=True)

    def _rows(self) -> dict[str, Sequence[Metrics]]:
        history = self._history
        return {"train": history.steps, "validation": history.validations, "warmup": history.warmup_steps}

    def _new_rows(self) -> list[Metrics]:
        """Return the steps and validations since the last call, in order.

        A trainer that resumes repeats steps, so the last step may also be lower than at the last call.
        """
        new_rows: list[Metrics] = []
        for split, rows in self._rows().items():
            new_rows += [row for row in rows if row.step > self._last_step[split]]
            self._last_step[split] = rows[-1].step if rows else -1
        return sorted(new_rows, key=lambda row: (row.step, row.split))

    def _panel(self, progress: Progress) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        head.add_row(Text(PHASE_TITLES[progress.phase], style="bold"), *self._bar(progress), self._times(progress))
        body: list[RenderableType] = [head]
        activity = " · ".join(part for part in (progress.message, progress.detail) if part)
        if activity:
            body.append(Text(printable(activity), style="dim", overflow="ellipsis", no_wrap=True))
        if not self._history.is_empty:
            body += [Text(), self._numbers(progress)]
        if progress.reward_hacking is not None and progress.reward_hacking.suspected:
            text = f"Reward hacking suspected: {progress.reward_hacking.message}"
            body += [Text(), Text(printable(text), style="bold red")]
        if self._note:
            body += [Text(), Text(self._note, style="yellow")]
        steps = f" · step {progress.step} of {progress.total_steps}" if progress.total_steps else ""
        title = Text(f"{self._job}{steps}")
        return Panel(Group(*body), title=title, title_align="left", border_style="cyan", box=box.ROUNDED)

    def _bar(self, progress: Progress) -> list[RenderableType]:
        if not progress.planned:
            return [ProgressBar(pulse=True, width=BAR_WIDTH, animation_time=time.monotonic())]
        bar = ProgressBar(total=progress.planned, completed=progress.done, width=BAR_WIDTH)
        return [bar, Text(f"{progress.done}/{progress.planned} {progress.unit}")]

    def _times(self, progress: Progress) -> Text:
        text = format_seconds(self._clock() - self._start)
        if progress.eta_seconds is not None:
            text += f", about {format_seconds(progress.eta_seconds)} left"
        return Text(text, style="dim")

    def _numbers(self, progress: Progress) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right")
        table.add_column(justify="right", style="dim")
        table.add_column(style="cyan")
        rows = self._rows()
        for title, split, field, digits in _CURVES:
            values = [value for row in rows[split] if (value := getattr(row, field)) is not None]
            if values:
                change = signed(values[-1] - values[0], digits) if len(values) > 1 else ""
                table.add_row(title, number(values[-1], digits), change, sparkline(values))
        if progress.rewards_failed:
            table.add_row("not scored", Text(str(progress.rewards_failed), style="red"), "", "")
        return table


def _sentence(row: Metrics, total: int) -> str:
    parts = [f"step {row.step}/{total}" if total else f"step {row.step}"]
    for title, split, field, digits in _CURVES:
        if split == row.split and (value := getattr(row, field)) is not None:
            parts.append(f"{title} {number(value, digits)}")
    return " · ".join(parts)


def _phase_line(progress: Progress) -> str:
    text = PHASE_TITLES[progress.phase]
    if progress.phase != "Training" and progress.planned:
        text += f" · {progress.planned} {progress.unit}"
    return text


def _remarks(progress: Progress) -> list[str]:
    parts = []
    if progress.reward_hacking is not None and progress.reward_hacking.suspected:
        parts.append("reward hacking suspected")
    if progress.rewards_failed:
        parts.append(f"not scored {progress.rewards_failed}")
    if progress.eta_seconds is not None:
        parts.append(f"about {format_seconds(progress.eta_seconds)} left")
    return parts
