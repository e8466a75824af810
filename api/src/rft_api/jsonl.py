"""The reader of users' JSONL files; it reports every line that is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_api.model import Json

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonLine:
    """A line of a JSONL file that holds an object."""

    number: int
    """Number of the line in the file, counted from 1."""
    text: bytes
    """The line as it stands in the file, without its end."""
    row: Json
    """The object."""


def numbered_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank and their numbers, counted from 1; line ends and a byte order mark are removed.

    Tools on Windows write a byte order mark in front of the first line.
    """
    for number, line in enumerate(lines, start=1):
        text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r\n")
        if text.strip():
            yield number, text


def parse_line(text: bytes) -> Any:
    """Parse a line; returns its JSON value.

    Raises:
        ValueError: when it is none; the message says why, as the end of a sentence about the line.
    """
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1} of the line)") from None
    except RecursionError:
        raise ValueError("is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


def read_json_lines(path: Path, problems: list[str]) -> list[JsonLine]:
    """Read the objects of a JSONL file. Every problem is appended to `problems`, as FILE:LINE: REASON."""
    lines: list[JsonLine] = []
    before = len(problems)
    try:
        with path.open("rb") as file:
            for number, text in numbered_lines(file):
                try:
                    row = parse_line(text)
                except ValueError as error:
                    problems.append(f"{path}:{number}: {error}")
                    continue
                if isinstance(row, dict):
                    lines.append(JsonLine(number, text, row))
                else:
                    kind = type(row).__name__
                    problems.append(f"{path}:{number}: must be a JSON object with messages, not {kind}")
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    if not lines and len(problems) == before:
        problems.append(f"{path}: is empty; expected one JSON object per line")
    return lines
