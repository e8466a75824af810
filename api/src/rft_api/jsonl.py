"""The reader of users' JSON: JSONL or one array, plain or gzip."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from rft_api.exact_json import after_space, decode, not_utf8, parse_line, parse_row
from rft_api.foreign.files import open_file
from rft_api.foreign.sizes import format_size
from rft_api.model import Json

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
MAXIMUM_LINE_BYTES = 64 << 20
"""A reward server takes requests of this size, so a longer row could not be scored."""
MAXIMUM_WHOLE_BYTES = 1 << 30
"""Size of an array, which is read whole; its objects need several times as much memory."""
MAXIMUM_ROWS = 5_000_000
"""Rows of a file: each takes some 500 bytes of memory, also where its line has two, and so does what is said about a
wrong line."""
MAXIMUM_UNPACKED_BYTES = 4 << 30
"""Size to which a compressed file may unpack, so that a small file cannot fill the memory or run for hours."""

# What tools write in place of JSON in UTF-8, by its first bytes.
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
# An object that begins with a line of its own goes on in the next lines.
_INDENTED_OBJECT = re.compile(rb"\{[ \t]*\r?\n")
_ARRAY_TO_LINES = "write one object per line: jq -c '.[]' FILE > NEW"
# The first line of a table: names between commas, semicolons or tabs.
_TABLE_HEAD = re.compile(r"[\w \"-]+([,;\t][\w \"-]+)+")


@dataclass(frozen=True)
class DataRow:
    """A row of a file: an object."""

    number: int
    """Number of its line in the file, counted from 1; in an array or a table, number of the row."""
    place: str
    """Its place for messages: FILE:LINE, FILE:LINE: row N in an array, FILE: row N in a table."""
    text: bytes
    """The row as a line of JSONL, without its end; a line of a JSONL file as it stands there."""
    row: Json
    """The object."""


@dataclass(frozen=True)
class LineFault:
    """What is wrong with a file of lines."""

    number: int | None
    """Number of the line, counted from 1; None for what is wrong with the whole file."""
    reason: str
    """Follows the name of the file, or of the line."""


class TooLarge(ValueError):
    """A file is too large to be read; the message follows the name of the file.

    Args:
        message: why.
        line: number of the line that is too long.
    """

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def numbered_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank and their numbers, counted from 1; line ends and a byte order mark are
    removed.

    Tools on Windows write a byte order mark in front of the first line.
    """
    for number, line in enumerate(lines, start=1):
        text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r\n")
        if text.strip():
            yield number, text


def open_data(file: Path) -> BufferedReader:
    """Open a file to read its bytes; a file in gzip, which its first bytes tell, is unpacked while it is read.

    Raises:
        OSError: when the file cannot be opened.
    """
    raw = open_file(file)
    return cast(BufferedReader, gzip.open(raw, "rb")) if raw.peek(2).startswith(GZIP) else raw


def read_json_rows(path: Path, problems: list[str]) -> list[DataRow]:
    """Read the objects of a file. Every problem is appended to `problems`, as FILE:LINE: REASON."""
    rows: list[DataRow] = []
    try:
        with open_data(path) as file:
            head = file.peek(64)
            problem = _other_encoding(head)
            start = head.removeprefix(BYTE_ORDER_MARK).lstrip()
            if problem:
                problems.append(f"{path}: {problem}")
            elif start.startswith(b"[") or _INDENTED_OBJECT.match(start):
                rows.extend(_read_whole(path, file, problems))
            else:
                rows.extend(_read_lines(path, _bounded_lines(file, MAXIMUM_LINE_BYTES), problems))
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    except (EOFError, zlib.error) as error:
        problems.append(f"{path}: cannot be unpacked to its end: {error}")
    except TooLarge as error:
        problems.append(f"{path}: {error}")
    return rows


def iterate_lines(path: Path, line_bytes: int, parse: Callable[[bytes], Any]) -> Iterator[DataRow | LineFault]:
    """Read the objects of a JSONL file one after another, with what is wrong in between; no row stays in memory.

    Arrays and objects over several lines would be read whole: they are refused here, and so are compressed files.

    Args:
        path: the file.
        line_bytes: largest size of a line; a longer one ends the file.
        parse: parses a line; raises ValueError with the reason.

    Raises:
        OSError: when the file cannot be read.
    """
    with open_file(path) as file:
        head = file.peek(64)
        start = head.removeprefix(BYTE_ORDER_MARK).lstrip()
        problem = _other_encoding(head)
        if head.startswith(GZIP):
            problem = "is compressed with gzip; unpack it"
        elif start.startswith(b"["):
            problem = f"is a JSON array; {_ARRAY_TO_LINES}"
        elif _INDENTED_OBJECT.match(start):
            problem = "has objects over several lines; write one object per line: jq -c . FILE > NEW"
        if problem:
            yield LineFault(None, problem)
            return
        try:
            yield from _parse_lines(path, _bounded_lines(file, line_bytes), parse)
        except TooLarge as error:
            whole, line = str(error), f"has more than {format_size(line_bytes)}"
            yield LineFault(error.line, whole if error.line is None else line)


def _other_encoding(head: bytes) -> str | None:
    """Say what a file is that begins with these bytes and is not UTF-8; None for all others."""
    # Texts begin with a byte order mark, or with a character that has one byte.
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) or (len(head) > 3 and head[:4].count(0) == 3):
        return "is UTF-32, not UTF-8; convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) > 1 and head[:2].count(0) == 1):
        return "is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    for start, name in _COMPRESSED.items():
        if head.startswith(start):
            return f"is compressed with {name}; unpack it, or compress it with gzip"
    return None


def _bounded_lines(file: BufferedReader, line_bytes: int) -> Iterator[bytes]:
    unpacked = number = 0
    while line := file.readline(line_bytes + 1):
        number += 1
        if len(line) > line_bytes:
            raise TooLarge(f"has a line of more than {format_size(line_bytes)}", number)
        unpacked += len(line)
        if unpacked > MAXIMUM_UNPACKED_BYTES and isinstance(file, gzip.GzipFile):
            raise TooLarge(f"unpacks to more than {MAXIMUM_UNPACKED_BYTES >> 20} MiB; split it")
        yield line


def _read_lines(path: Path, lines: Iterable[bytes], problems: list[str]) -> Iterator[DataRow]:
    for each in _parse_lines(path, lines, parse_row):
        if isinstance(each, DataRow):
            yield each
        else:
            place = path if each.number is None else f"{path}:{each.number}"
            problems.append(f"{place}: {each.reason}")


def _parse_lines(path: Path, lines: Iterable[bytes], parse: Callable[[bytes], Any]) -> Iterator[DataRow | LineFault]:
    for count, (number, text) in enumerate(numbered_lines(lines), start=1):
        if count > MAXIMUM_ROWS:
            raise TooLarge(too_many_rows())
        try:
            value = parse(text)
        except ValueError as error:
            head = text.decode("utf-8", "replace") if number == 1 else ""
            if _TABLE_HEAD.fullmatch(head):
                reason = f"is a table of texts (CSV), not JSON; convert it: {_table_to_jsonl(head)}"
                yield LineFault(None, reason)
                return
            yield LineFault(number, f"{error}{_advice(text)}")
            continue
        if isinstance(value, dict):
            yield DataRow(number, f"{path}:{number}", text, value)
        else:
            yield LineFault(number, _not_an_object(value))


def _table_to_jsonl(head: str) -> str:
    """Return the command that converts a table of texts with this first line. Excel writes a byte order mark before
    it."""
    separator = max(",;\t", key=head.count)
    options = "" if separator == "," else f", delimiter={json.dumps(separator)}"
    return (
        'python3 -c \'import csv, json, sys; sys.stdin.reconfigure(encoding="utf-8-sig"); '
        f"[print(json.dumps(row)) for row in csv.DictReader(sys.stdin{options})]' < FILE > NEW"
    )


def _advice(line: bytes) -> str:
    """Return what to do about a line that is no JSON, where that can be told."""
    if line.rstrip().endswith(b"},"):
        return "; write one object per line, without commas between them"
    return "" if _is_utf8(line) else _FROM_WINDOWS


_FROM_WINDOWS = "; if it was written on Windows, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _not_an_object(value: Any) -> str:
    return f"must be a JSON object with messages, not {type(value).__name__}"


def _read_whole(path: Path, file: BufferedReader, problems: list[str]) -> Iterator[DataRow]:
    """Read a file that begins with [, or with an object over several lines."""
    if path.stat().st_size > MAXIMUM_WHOLE_BYTES:
        raise TooLarge(_too_large_to_be_whole())
    content = file.read(MAXIMUM_WHOLE_BYTES + 1)
    if len(content) > MAXIMUM_WHOLE_BYTES:
        raise TooLarge(_too_large_to_be_whole())
    content = content.removeprefix(BYTE_ORDER_MARK)
    first_line, _, rest = content.lstrip().partition(b"\n")
    if rest.strip() and _is_json(first_line):
        yield from _read_lines(path, content.split(b"\n"), problems)  # a JSONL file whose first line is a list
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = content.rfind(b"\n", 0, error.start)
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(f"{path}:{line}: {not_utf8(error.start - line_start)}{_FROM_WINDOWS}")
        return
    yield from _read_elements(path, text, problems)


def _too_large_to_be_whole() -> str:
    return f"is a JSON array of more than {MAXIMUM_WHOLE_BYTES >> 20} MiB, which is read whole; {_ARRAY_TO_LINES}"


def too_many_rows() -> str:
    """Return what to say about a file with more rows than `MAXIMUM_ROWS`."""
    return f"has more than {MAXIMUM_ROWS:,} rows; split it"


def _is_json(line: bytes) -> bool:
    try:
        parse_line(line)
    except ValueError:
        return False
    return True


def _read_elements(path: Path, text: str, problems: list[str]) -> Iterator[DataRow]:
    """Read the objects of an array, or objects that follow one another, each over several lines."""
    position = after_space(text, 0)
    is_array = text[position] == "["
    position = after_space(text, position + 1) if is_array else position
    number, line, counted = 0, 1, 0
    try:
        while position < len(text) and not (is_array and text[position] == "]"):
            line += text.count("\n", counted, position)
            counted = position
            value, end, fault = decode(text, position)
            number += 1
            if number > MAXIMUM_ROWS:
                raise TooLarge(too_many_rows())
            place = f"{path}:{line}: row {number}"
            if fault or not isinstance(value, dict):
                problems.append(f"{place}: {fault or _not_an_object(value)}")
            else:
                yield DataRow(number, place, json.dumps(value, ensure_ascii=False).encode(), value)
            position = after_space(text, end)
            if is_array and text.startswith(",", position):
                position = after_space(text, position + 1)
            elif is_array and not text.startswith("]", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        if is_array and not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting ']'", text, position)
        if is_array and after_space(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, after_space(text, position + 1))
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: is not JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        problems.append(f"{path}:{line}: is not JSON: it is nested too deeply")
