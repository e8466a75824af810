"""Reads foreign files: regular files only, never more than a limit, and without waiting for anybody."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rft_api.exact_json import parse_row
from rft_api.foreign.sizes import format_size

MAXIMUM_VALUES = 2_000_000
"""Largest number of values in a JSON file. The header of an adapter for 90,000 experts has 750,000; a value takes up to
some 100 bytes of memory, and as little as 2 bytes of the file."""
MAXIMUM_DOCUMENT = 64 << 20
"""Largest size in bytes of a document of a run, such as its configuration or summary; they have some KiB."""
_CHUNK = 1 << 20

Document = TypeVar("Document", bound=BaseModel)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    A FIFO would block until somebody writes to it, and a device may never end. Symbolic links are followed, because the
    volumes of Kubernetes and the cache of the hub consist of them: whoever may read a file may have it read.

    Raises:
        OSError: when it cannot be opened, or is a folder, a FIFO, a device or a socket.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "is no regular file", str(path))


def read_file(path: Path, maximum_bytes: int) -> bytes:
    """Read a whole file. What it says about its size is looked at first, because a sparse file costs its owner nothing.

    Raises:
        ValueError: when it is larger.
        OSError: when it cannot be read, or is no regular file.
    """
    with open_file(path) as file:
        content = bytearray()
        size = os.fstat(file.fileno()).st_size
        # The file may grow while it is read, and files of /proc do not say their size.
        while size <= maximum_bytes and (chunk := file.read(min(_CHUNK, maximum_bytes + 1 - len(content)))):
            content += chunk
            size = max(size, len(content))
    if size > maximum_bytes:
        raise ValueError(f"is larger than {format_size(maximum_bytes)}")
    return bytes(content)


def read_json(path: Path, maximum_bytes: int, parse: Callable[[bytes], Any] = parse_row) -> Any:
    """Read a file with a JSON value.

    Args:
        path: the file.
        maximum_bytes: its largest size.
        parse: `parse_row`, or `parse_line` where values that JSON does not have are usual, such as Infinity in the
            configurations of models.

    Raises:
        ValueError: when it is none, is too large or has too many values.
        OSError: when it cannot be read.
    """
    return parse_bounded(read_file(path, maximum_bytes), parse)


def read_document(path: Path, model: type[Document]) -> Document:
    """Read a file with a JSON object that a pydantic model describes.

    Raises:
        ValueError: when it holds something else (pydantic's ValidationError), or is too large.
        OSError: when it cannot be read.
    """
    return model.model_validate_json(read_file(path, MAXIMUM_DOCUMENT))


def parse_bounded(content: bytes, parse: Callable[[bytes], Any] = parse_row) -> Any:
    """Parse a JSON value that has at most `MAXIMUM_VALUES` values, which are counted before it is parsed.

    Raises:
        ValueError: when it is none, or has more values.
    """
    if most_values(content) > MAXIMUM_VALUES:
        raise ValueError(f"has more than {MAXIMUM_VALUES:,} values")
    return parse(content)


def most_values(text: bytes | bytearray) -> int:
    """Return the number of values that a JSON text has at most: one for each comma and bracket, those in texts too."""
    return sum(map(text.count, (b",", b"[", b"{")))
