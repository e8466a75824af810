"""What a run shows without a terminal: a line for everything that happened, however seldom it is asked."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.finished_runs import train_metrics, validation_metrics

from rft_api.progress import Progress
from rft_cli.display import Display
from rft_cli.history import History


class Shown:
    """A display of the metrics in a file."""

    def __init__(self, file: Path):
        self._output = io.StringIO()
        self._display = Display(Console(file=self._output), "digits", History(file))

    def lines(self, progress: Progress) -> list[str]:
        """What it adds, without the times."""
        self._output.truncate(0)
        self._output.seek(0)
        self._display.update(progress)
        return [re.sub(r"^\[ +\d+s\] ", "", line) for line in self._output.getvalue().splitlines()]


def measured(*rows) -> str:
    return "".join(row.model_dump_json() + "\n" for row in rows)


def begin(lines: list[str]) -> list[str]:
    """What the lines say before their first measured number."""
    return [line.split(" 0.")[0] for line in lines]


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_every_step_has_a_line_though_several_passed_unseen(metrics):
    shown = Shown(metrics)
    assert shown.lines(Progress(message="starting")) == ["starting"]
    assert shown.lines(Progress(message="starting")) == []
    assert shown.lines(Progress(phase="Baseline", planned=12)) == ["scoring the base model · 12 samples"]
    metrics.write_text(measured(validation_metrics(0), train_metrics(1), train_metrics(2), validation_metrics(2)))
    lines = shown.lines(Progress(phase="Training", total_steps=3, step=2, eta_seconds=7, rewards_failed=1))
    assert begin(lines) == [
        "training",
        "step 0/3 · validation reward",
        "step 1/3 · reward",
        "step 2/3 · reward",
        "step 2/3 · validation reward",
    ]
    assert re.search(r" · episode length [\d.]+ · gradient norm [\d.]+$", lines[2])
    assert lines[-1].endswith(" · not scored 1 · about 7s left")
    # The last step and the stages after it came between two looks.
    with metrics.open("a") as file:
        file.write(measured(train_metrics(3)))
    last = shown.lines(Progress(phase="Evaluating", total_steps=3, planned=12))
    assert begin(last) == ["step 3/3 · reward", "scoring the tuned model · 12 samples"]


def test_what_an_earlier_start_told_is_not_told_again(metrics):
    metrics.write_text(measured(*map(train_metrics, (1, 2, 3))))
    shown = Shown(metrics)
    assert shown.lines(Progress(phase="Training", total_steps=9)) == ["training"]
    # It goes on from the checkpoint of step 1.
    metrics.write_text(measured(train_metrics(1)))
    assert shown.lines(Progress(phase="Training", total_steps=9)) == []
    metrics.write_text(measured(*map(train_metrics, (1, 2))))
    assert begin(shown.lines(Progress(phase="Training", total_steps=9))) == ["step 2/9 · reward"]
