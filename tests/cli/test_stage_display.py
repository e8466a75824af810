"""What commands show while they work: a line that changes on a terminal, and lines at intervals elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from support.patience import wait_until

from rft_cli import stage_display
from rft_cli.stage_display import SILENCE_SECONDS, StageDisplay, shown_stage


@pytest.fixture
def clock():
    time = SimpleNamespace(now=100.0)
    return lambda seconds=0.0: setattr(time, "now", time.now + seconds) or time.now


def test_on_a_terminal_the_text_is_shown_as_it_is_in_one_line():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=60, markup=False)
    with shown_stage(console) as stage:
        stage.update("waiting for [bold]small[/]", detail="line\nbreak")
        wait_until(lambda: "waiting for [bold]small[/]" in output.getvalue(), output.getvalue)
        console.print("small: ready")
    assert "line break" in output.getvalue()
    assert "small: ready" in output.getvalue()


def test_a_text_that_is_too_long_stays_one_line():
    output = io.StringIO()
    stage = StageDisplay(Console(file=output, force_terminal=True, width=20))
    with stage.refreshed():
        stage.update("waiting for small", detail="Loading weights")
        wait_until(lambda: "waiting for sma\u2026" in output.getvalue(), output.getvalue)
    assert "Loading" not in output.getvalue()


def test_elsewhere_a_stage_that_takes_longer_says_how_far_it_is_and_the_time_left(clock):
    output = io.StringIO()
    stage = StageDisplay(Console(file=output), clock)
    stage.refresh()
    stage.update("scoring with tax", 0, 1000, "completions")
    clock(SILENCE_SECONDS - 1)
    stage.refresh()
    assert output.getvalue() == "", "a stage that is short says nothing"
    clock(1)
    stage.update("scoring with tax", 250, 1000, "completions")
    stage.refresh()
    stage.refresh()
    assert output.getvalue() == "scoring with tax · 250/1,000 completions · about 30s left\n"


def test_where_nobody_knows_how_much_there_is_no_time_left_is_stated(clock):
    output = io.StringIO()
    stage = StageDisplay(Console(file=output), clock)
    stage.update("fetching config.json")
    clock(1)
    stage.update("waiting for vLLM", detail="Loading weights")
    clock(SILENCE_SECONDS)
    stage.update("waiting for vLLM", detail="Capturing graphs")
    stage.refresh()
    assert output.getvalue() == "waiting for vLLM · for 10s · Capturing graphs\n"


def test_bytes_are_counted_from_when_their_total_is_known(clock):
    stage = StageDisplay(Console(file=io.StringIO()), clock)
    report = stage.report_bytes("fetching s3://b/model")
    clock(50)  # listing the objects
    report(0, 3_000_000_000)
    clock(10)
    report(1_000_000_000, 3_000_000_000)
    assert stage.describe() == "fetching s3://b/model · 1,000/3,000 MB · about 20s left"


def test_a_call_that_blocks_is_shown_too(monkeypatch):
    monkeypatch.setattr(stage_display, "SILENCE_SECONDS", 0.0)
    output = io.StringIO()
    with shown_stage(Console(file=output)) as stage:
        stage.update("installing numpy")
        wait_until(lambda: output.getvalue().count("installing numpy · for ") > 1, output.getvalue)
