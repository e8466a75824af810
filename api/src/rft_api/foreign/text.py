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
    return _shown(text, maximum, lines=False)


def several_lines(text: str, maximum: int = MAXIMUM_SHOWN) -> str:
    """Return a text whose lines stay apart, for places where lines of their own can pretend nothing.

    Args:
        text: the text.
        maximum: as for `one_line`.
    """
    return _shown(text, maximum, lines=True)


def _shown(text: str, maximum: int, lines: bool) -> str:
    pieces: list[str] = []
    size = 0
    for position, character in enumerate(text):
        piece = _escaped(character, lines)
        if piece == " " and not lines and (not pieces or pieces[-1] == " "):
            piece = ""
        size += len(piece)
        # The text may be as large as a tenant likes, and hold nothing but white space.
        if size > maximum or position > 16 * maximum:
            return f"{''.join(pieces)} ... ({len(text) - position:,} more characters)"
        if piece:
            pieces.append(piece)
    return "".join(pieces) if lines else "".join(pieces).rstrip()


def _escaped(character: str, lines: bool) -> str:
    # isprintable() knows the categories of Unicode: Cc, Cf, Cs, Co, Cn, Zl, Zp, and all spaces but " ".
    if character.isprintable() or (lines and character == "\n"):
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
