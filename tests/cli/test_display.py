"""What a run shows without a terminal: a line for everything that happened, however seldom it is asked."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from support.finished_runs import train_metrics, validation_metrics, warmup_metrics

from rft_api.progress import Progress
from rft_cli.display import SILENCE_SECONDS, Display
from rft_cli.history import History


class Shown:
    """A display of the metrics in a file; `now` is its time in seconds."""

    def __init__(self, file: Path):
        self.now = 0.0
        self._output = io.StringIO()
        self._display = Display(Console(file=self._output), "digits", History(file), lambda: self.now)

    def lines(self, progress: Progress) -> list[str]:
        """What it adds, without the times."""
        self._output.truncate(0)
        self._output.seek(0)
        self._display.update(progress)
        return [re.sub(r"^\[ *(\d+m )?\d+s\] ", "", line) for line in self._output.getvalue().splitlines()]


def measured(*rows) -> str:
    return "".join(row.model_dump_json() + "\n" for row in rows)


def begin(lines: list[str]) -> list[str]:
    """What the lines say before their first measured number."""
    return [line.split(" 0.")[0] for line in lines]


@pytest.fixture
def metrics(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_steps_of_a_warm_up_alone(metrics):
    shown = Shown(metrics)
    metrics.write_text(measured(warmup_metrics(9), warmup_metrics(10)))
    lines = shown.lines(Progress(phase="WarmUp", total_steps=20, step=10, planned=20, unit="steps"))
    assert begin(lines) == ["step 9/20 · loss", "step 10/20 · loss", "warm-up · 20 steps"]
    assert re.search(r"loss 0\.736 · validation loss 0\.773 · gradient norm 1\.000$", lines[1])


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


def long_run():
    """Where a slow run stands, second by second."""
    for _ in range(45):
        yield Progress(message="loading libraries")
    for second in range(65):
        yield Progress(phase="Fetching", done=second * 10, planned=650, unit="MB", eta_seconds=65 - second)
    for second in range(300):
        eta = None if second < 30 else 300 - second
        yield Progress(
            phase="Baseline", message="scoring the base model", done=second // 30, planned=10, eta_seconds=eta
        )
    for _ in range(15):
        yield Progress(phase="Baseline", message="scoring the base model", done=10, planned=10)
    for second in range(120):
        detail = f"{second}/120 samples, about {120 - second}s left"
        yield Progress(
            phase="Training", message="validating after step 3", detail=detail, done=3, planned=9, unit="steps"
        )


def test_nothing_lasts_longer_than_ten_seconds_without_a_line(metrics):
    shown = Shown(metrics)
    written = []
    for progress in long_run():
        written += [(shown.now, line) for line in shown.lines(progress)]
        shown.now += 1
    times = [0.0, *(time for time, _ in written), shown.now]
    assert max(later - earlier for earlier, later in pairwise(times)) <= SILENCE_SECONDS
    assert len(written) <= shown.now / SILENCE_SECONDS + 4, "no more than that, and a line for each stage"
    lines = [line for _, line in written]
    assert lines[:3] == ["starting", "starting · loading libraries · for 10s", "starting · loading libraries · for 20s"]
    assert "fetching model and data · 100/650 MB · about 55s left" in lines
    assert "scoring the base model · 0/10 samples · for 20s" in lines
    assert "scoring the base model · 4/10 samples · about 2m 40s left" in lines
    assert "scoring the base model · 10/10 samples · waiting for the last rewards" in lines
    assert "training · 3/9 steps · validating after step 3 · 50/120 samples, about 70s left" in lines


def test_a_line_of_a_step_is_a_sign_of_life_too(metrics):
    shown = Shown(metrics)
    shown.lines(Progress(phase="Training", total_steps=9))
    for step in range(1, 9):
        shown.now += 8
        with metrics.open("a") as file:
            file.write(measured(train_metrics(step)))
        assert begin(shown.lines(Progress(phase="Training", total_steps=9))) == [f"step {step}/9 · reward"]


def test_a_terminal_shows_how_far_a_part_of_a_stage_is(metrics):
    output = io.StringIO()
    with Display(Console(file=output, force_terminal=True, width=100), "digits", History(metrics)) as display:
        display.update(
            Progress(phase="Training", message="validating after step 3", detail="50/120 samples", done=3, planned=9,
                     unit="steps")
        )  # fmt: skip
    assert "3/9 steps" in output.getvalue()
    assert "validating after step 3 · 50/120 samples" in output.getvalue()
