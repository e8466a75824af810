"""Shows what `rft serve` waits for, in a line that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from rft_api.foreign.text import one_line

_MARGIN = 4
"""Columns of the sign that turns, and of what is kept free."""


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in place of the one before. Where there is no terminal, it shows nothing."""
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:

        def show(text: str) -> None:
            line = Text(one_line(text))
            line.truncate(max(console.width - _MARGIN, 1), overflow="ellipsis")
            status.update(line)

        yield show
