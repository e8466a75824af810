"""Shows foreign text: in logs, in conditions and on terminals, where it must not look like anything else."""

from __future__ import annotations

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


def _escaped(character: str) -> str:
    # isprintable() knows the categories of Unicode: Cc, Cf, Cs, Co, Cn, Zl, Zp, and all spaces but " ".
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
