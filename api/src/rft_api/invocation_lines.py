"""The lines of the files of invocation logs, of which each may be damaged."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rft_api.jsonl import BYTE_ORDER_MARK, open_data

MAXIMUM_BYTES: Final = 8 << 20
"""Largest line, and largest body in a file of its own. Bedrock puts bodies above 100 KB into objects of their own: a
record is far shorter, and so is any prompt that a model could be trained on."""


def lines(file: Path) -> Iterator[tuple[int, bytes | Exception]]:
    """Yield the lines that are not empty, with their numbers; an exception stands for a line that cannot be read."""
    number = 0
    try:
        with open_data(file) as stream:
            while line := stream.readline(MAXIMUM_BYTES + 1):
                number += 1
                if len(line) > MAXIMUM_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(MAXIMUM_BYTES)
                    yield number, ValueError(f"is longer than {MAXIMUM_BYTES >> 20} MiB")
                elif line.strip():
                    yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        yield number + 1, ValueError(f"cannot be read further: {getattr(error, 'strerror', None) or error}")
