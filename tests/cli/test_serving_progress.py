"""What `rft serve` shows while it waits: a line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from rft_cli.serving_progress import show_progress


def test_on_a_terminal_the_text_is_shown_as_it_is_in_one_line():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=40, markup=False)
    with show_progress(console) as show:
        show("waiting for [bold]small[/]\nnow")
        console.print("small: ready")
    assert "waiting for [bold]small[/] now" in output.getvalue()
    assert "small: ready" in output.getvalue()


def test_a_text_that_is_too_long_stays_one_line():
    output = io.StringIO()
    with show_progress(Console(file=output, force_terminal=True, width=20)) as show:
        show("waiting for small, 12 s: Loading weights")
    assert "waiting for sma\u2026" in output.getvalue()
    assert "Loading" not in output.getvalue()


def test_elsewhere_nothing_is_shown():
    output = io.StringIO()
    with show_progress(Console(file=output)) as show:
        show("waiting")
    assert output.getvalue() == ""
