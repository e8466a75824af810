"""Shows a run while it goes on: a live panel on a terminal, otherwise a line whenever something happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rft_api.run import Phase, Progress
from rft_cli.history import History
from rft_cli.texts import duration, harmless, number, signed, sparkline

PHASES: dict[Phase, str] = {
    "Starting": "starting",
    "Data": "reading data",
    "Baseline": "scoring the base model",
    "Preflight": "checking that the model can learn from this reward",
    "WarmUp": "warm-up",
    "Training": "training",
    "Evaluating": "scoring the tuned model",
    "Exporting": "exporting",
    "Done": "done",
}
BAR_WIDTH = 40


class Display:
    """Shows progress; use as a context manager."""

    def __init__(self, console: Console, job: str, history: History):
        self._console = console
        self._job = job
        self._history = history
        self._started = time.monotonic()
        self._shown: tuple[Phase, int, int] | None = None
        self._note = ""
        # Alternate screens lose the last state; a transient panel leaves the terminal to the report.
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def note(self, message: str) -> None:
        """Tells the user something; stays visible until the next note."""
        self._note = message
        if self._live is None:
            self._line(message)

    def update(self, progress: Progress) -> None:
        """Shows where the run stands."""
        self._history.update()
        if self._live:
            self._live.update(self._panel(progress), refresh=True)
            return
        now = (progress.phase, progress.step, len(self._history.validation))
        if now != self._shown:
            self._shown = now
            self._line(self._sentence(progress))

    def _line(self, text: str) -> None:
        elapsed = duration(time.monotonic() - self._started)
        self._console.print(Text(f"[{elapsed:>7}] {text}"), soft_wrap=True)

    def _sentence(self, progress: Progress) -> str:
        parts = [PHASES[progress.phase]]
        if progress.phase == "Training" and progress.total_steps:
            parts = [f"step {progress.step}/{progress.total_steps}"]
            for title, value, digits in (
                ("reward", progress.reward, 3),
                ("validation reward", progress.validation_reward, 3),
                ("episode length", progress.episode_length, 1),
                ("gradient norm", progress.gradient_norm, 3),
            ):
                if value is not None:
                    parts.append(f"{title} {number(value, digits)}")
        elif progress.planned:
            parts.append(f"{progress.planned} {'steps' if progress.phase == 'WarmUp' else 'samples'}")
        if progress.reward_hacking is not None and progress.reward_hacking.suspected:
            parts.append("reward hacking suspected")
        if progress.rewards_failed:
            parts.append(f"not scored {progress.rewards_failed}")
        if progress.eta_seconds is not None:
            parts.append(f"about {duration(progress.eta_seconds)} left")
        return " · ".join(parts)

    def _panel(self, progress: Progress) -> RenderableType:
        head = Table.grid(padding=(0, 2))
        head.add_row(Text(PHASES[progress.phase], style="bold"), *self._bar(progress), self._times(progress))
        body: list[RenderableType] = [head]
        if progress.message:
            body.append(Text(harmless(progress.message), style="dim", overflow="ellipsis", no_wrap=True))
        if self._history.training or self._history.validation:
            body += [Text(), self._numbers(progress)]
        if progress.reward_hacking is not None and progress.reward_hacking.suspected:
            text = f"Reward hacking suspected: {progress.reward_hacking.message}"
            body += [Text(), Text(harmless(text), style="bold red")]
        if self._note:
            body += [Text(), Text(self._note, style="yellow")]
        steps = f" · step {progress.step} of {progress.total_steps}" if progress.total_steps else ""
        title = Text(f"{self._job}{steps}")
        return Panel(Group(*body), title=title, title_align="left", border_style="cyan", box=box.ROUNDED)

    def _bar(self, progress: Progress) -> list[RenderableType]:
        if not progress.planned:
            return [ProgressBar(pulse=True, width=BAR_WIDTH, animation_time=time.monotonic())]
        bar = ProgressBar(total=progress.planned, completed=progress.done, width=BAR_WIDTH)
        return [bar, Text(f"{progress.done}/{progress.planned}")]

    def _times(self, progress: Progress) -> Text:
        text = duration(time.monotonic() - self._started)
        if progress.eta_seconds is not None:
            text += f", about {duration(progress.eta_seconds)} left"
        return Text(text, style="dim")

    def _numbers(self, progress: Progress) -> RenderableType:
        steps, validations = self._history.steps, self._history.validations
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right")
        table.add_column(justify="right", style="dim")
        table.add_column(style="cyan")
        rows: list[tuple[str, Sequence[float | None], int]] = [
            ("reward", [step.reward for step in steps], 3),
            ("validation reward", [validation.reward for validation in validations], 3),
            ("episode length", [step.episode_length for step in steps], 1),
            ("gradient norm", [step.gradient_norm for step in steps], 3),
        ]
        for title, values, digits in rows:
            known = [value for value in values if value is not None]
            if known:
                change = signed(known[-1] - known[0], digits) if len(known) > 1 else ""
                table.add_row(title, number(known[-1], digits), change, sparkline(known))
        if progress.rewards_failed:
            table.add_row("not scored", Text(str(progress.rewards_failed), style="red"), "", "")
        return table
