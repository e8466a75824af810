"""Checks the names of foreign files and objects."""

from __future__ import annotations

_LONGEST_NAME = 1024
"""Largest number of characters of a relative path; S3 takes no longer keys."""


def check_relative_name(name: str) -> None:
    """Refuse the name of an object or file that leads out of the folder it is copied to.

    Raises:
        ValueError: when the name is absolute, too long, or has parts that are empty, `.` or `..`.
    """
    parts = name.split("/")  # an absolute name begins with an empty part
    if len(name) > _LONGEST_NAME or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError("is not the name of a file below a folder")
