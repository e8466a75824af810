"""The base of displays that change in place on a terminal, and print lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class LiveView:
    """A view on a terminal that changes in place, and disappears at the end. It is a context manager.

    Args:
        console: the console; without a terminal there is no view.
    """

    def __init__(self, console: Console):
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    @property
    def is_live(self) -> bool:
        """Whether there is a view."""
        return self._live is not None

    def show(self, view: RenderableType) -> None:
        """Show something in place of what was shown before. Where there is no view, nothing happens."""
        if self._live:
            self._live.update(view, refresh=True)
