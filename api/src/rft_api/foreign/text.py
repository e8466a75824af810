"""Shows foreign text: in logs, in conditions and on terminals, where it must not look like anything else."""

from __future__ import annotations

import json

MAXIMUM_SHOWN = 1000
"""Largest number of characters of a foreign text in a message, unless its place has a limit of its own."""


def one_line(text: str, maximum: int = MAXIMUM_SHOWN) -> str:
    """Return a text as one line, so that it cannot pretend to be another line of a log, or another condition.

    White space of any kind becomes one space. Characters that are not printable, such as control characters, those that
    change the direction of writing, and halves of surrogate pairs, are escaped as in Python.

    Args:
        text: the text.
        maximum: the largest number of characters that are shown; how many are left out is said.
    """
    if len(text) <= maximum and "  " not in text and text.isprintable():  # nearly all texts are
        return text.strip()
    pieces: list[str] = []
    size = 0
    for position, character in enumerate(text):
        piece = _escaped(character)
        if piece == " " and (not pieces or pieces[-1] == " "):
            piece = ""
        size += len(piece)
        # The text may be as large as a tenant likes, and hold nothing but white space.
        if size > maximum or position > 16 * maximum:
            return f"{''.join(pieces)} ... ({len(text) - position:,} more characters)"
        if piece:
            pieces.append(piece)
    return "".join(pieces).rstrip()


def printable(text: str, maximum: int | None = None) -> str:
    """Return a text of several lines for a terminal, on which it can change nothing but its own lines.

    Characters that are not printable are escaped as in Python; line ends stay.

    Args:
        text: the text.
        maximum: the largest number of characters of the text that are shown, of any number if None; how many are left
            out is said.
    """
    shown = text if maximum is None else text[:maximum]
    if shown.replace("\n", "").isprintable():  # nearly all texts are
        lines = shown
    else:
        lines = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in shown)
    return lines if len(shown) == len(text) else f"{lines} ... ({len(text) - len(shown):,} more characters)"


def quoted(text: str) -> str:
    """Return a text in quotes on one line, with its line ends as `\\n`, for output of programs in a log."""
    return "".join(map(_escaped, json.dumps(text, ensure_ascii=False)))


def _escaped(character: str) -> str:
    # isprintable() knows the categories of Unicode: Cc, Cf, Cs, Co, Cn, Zl, Zp, and all spaces but " ".
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
