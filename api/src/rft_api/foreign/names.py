"""Checks the names of foreign files and objects."""

from __future__ import annotations

import unicodedata

_LONGEST_NAME = 1024
"""Largest number of bytes of a relative path; S3 takes no longer keys."""
_LONGEST_PART = 240
"""Largest number of bytes of a file's or folder's own name: 255 on Linux, less the suffix of a file that is written."""
_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of surrogate pairs, and separators of lines and paragraphs."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of writing, so that a name looks like another one."""


def check_relative_name(name: str) -> None:
    """Refuse the name of an object or file that leads out of the folder it is copied to.

    Raises:
        ValueError: when the name is absolute, too long, has parts that are empty, `.` or `..`, or characters that would
            make it look like something else in a log or on a terminal.
    """
    parts = name.split("/")  # an absolute name begins with an empty part
    refusal = "is not the name of a file below a folder"
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise ValueError(refusal)
    if len(name) > _LONGEST_NAME or len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise ValueError(f"{refusal}: it is longer than {_LONGEST_NAME} bytes")
    if any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART for part in parts):
        raise ValueError(f"{refusal}: it has a part of more than {_LONGEST_PART} bytes")
    if any(character in _DIRECTIONS or unicodedata.category(character) in _CATEGORIES for character in name):
        raise ValueError(f"{refusal}: it has a character that cannot be seen")
