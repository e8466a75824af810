"""Reads foreign files, and names of foreign files: their size first, and without following links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rft_api.foreign.json_text import format_size

_LONGEST_NAME = 1024
"""Largest number of characters of a relative path; S3 takes no longer keys."""


def read_file(path: Path, maximum_bytes: int) -> bytes:
    """Return the contents of a file.

    Raises:
        ValueError: when it is larger, or no regular file, which might never end.
        OSError: when it cannot be read.
    """
    # Opening a named pipe would otherwise wait until somebody writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a file")
        if status.st_size > maximum_bytes:
            raise ValueError(f"is larger than {format_size(maximum_bytes)}")
        content = file.read(maximum_bytes + 1)
    if len(content) > maximum_bytes:  # the file is growing
        raise ValueError(f"is larger than {format_size(maximum_bytes)}")
    return content


def check_relative_name(name: str) -> None:
    """Refuse the name of an object or file that leads out of the folder it is copied to.

    Raises:
        ValueError: when the name is absolute, too long, or has parts that are empty, `.` or `..`.
    """
    parts = name.split("/")  # an absolute name begins with an empty part
    if len(name) > _LONGEST_NAME or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError("is not the name of a file below a folder")
