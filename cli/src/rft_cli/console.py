"""Makes the consoles of the commands."""

from __future__ import annotations

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Return a console to which texts are texts.

    By default, rich reads its markup in every text that it prints: "[/x]" in the name of a component would be an
    exception, "[link=...]" a link to anywhere, and what a user has put in brackets would be missing.
    """
    return Console(stderr=stderr, markup=False, emoji=False)
