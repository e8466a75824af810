"""The reader of users' JSON: JSONL or one array, plain or gzip. It takes only what every later part can carry."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar, cast

from rft_api.model import Json, Location, format_location

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
MAXIMUM_NESTING = 200
"""Levels of objects and lists in a row. The reward server's JSON writer (orjson) takes 254, and a sample adds a few
around those of the row."""
MAXIMUM_LINE_BYTES = 64 << 20
"""A reward server takes requests of this size, so a longer row could not be scored."""
MAXIMUM_WHOLE_BYTES = 1 << 30
"""Size of an array, which is read whole; its objects need several times as much memory."""
MAXIMUM_UNPACKED_BYTES = 4 << 30
"""Size to which a compressed file may unpack, so that a small file cannot fill the memory or run for hours."""

# What tools write in place of JSON in UTF-8, by its first bytes.
_COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_SPACE = re.compile(r"[ \t\r\n]*")
# An object that begins with a line of its own goes on in the next lines.
_INDENTED_OBJECT = re.compile(rb"\{[ \t]*\r?\n")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")

Number = TypeVar("Number", int, float)


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


class NotCarried(ValueError):
    """A value that Python's JSON reader takes and a later part does not; the message follows the name of its field."""


class TooLarge(ValueError):
    """A file is too large to be read; the message follows the name of the file."""


def numbered_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank and their numbers, counted from 1; line ends and a byte order mark are removed.

    Tools on Windows write a byte order mark in front of the first line.
    """
    for number, line in enumerate(lines, start=1):
        text = (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r\n")
        if text.strip():
            yield number, text


def parse_line(text: bytes) -> Any:
    """Parse a line; returns its JSON value, which may hold what Python reads beyond JSON, such as NaN.

    Raises:
        ValueError: when it is none; the message says why, as the end of a sentence about the line.
    """
    return _explained(text, json.loads)


def parse_row(text: bytes) -> Any:
    """Parse a line of data; returns its JSON value, which every later part can carry unchanged.

    Raises:
        ValueError: when it is none; the message says why, as the end of a sentence about the line.
    """
    return _explained(text, _decode_line)


def open_data(file: Path) -> BufferedReader:
    """Open a file to read its bytes; a file in gzip, which its first bytes tell, is unpacked while it is read.

    Raises:
        OSError: when the file cannot be opened.
    """
    raw = file.open("rb")
    if raw.peek(2).startswith(GZIP):
        raw.close()
        return cast(BufferedReader, gzip.open(file, "rb"))
    return raw


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
                rows.extend(_read_lines(path, _bounded_lines(file), problems))
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
    except (EOFError, zlib.error) as error:
        problems.append(f"{path}: cannot be unpacked to its end: {error}")
    except TooLarge as error:
        problems.append(f"{path}: {error}")
    return rows


def first_fault(value: Any) -> str | None:
    """The first place in a value that a later part could not carry, with the reason; None when all can be carried."""
    stack: list[tuple[Location, Any]] = [((), value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, (dict, list)):
            if len(place) == MAXIMUM_NESTING:
                reason = f"is nested more than {MAXIMUM_NESTING} levels deep; write the inner part as a text"
                return _at(place[:1], reason)
            children = list(item.items() if isinstance(item, dict) else enumerate(item))
            for key, _ in children:
                if isinstance(key, str) and _HALF.search(key):
                    return _at((*place, key), f"has a name with {_half_pair(key)}")
            stack.extend(((*place, key), child) for key, child in reversed(children))
        elif isinstance(item, str):
            if _HALF.search(item):
                return _at(place, f"has {_half_pair(item)}")
        elif isinstance(item, NotCarried):
            return _at(place, str(item))
        elif isinstance(item, float) and not math.isfinite(item):
            return _at(place, _not_a_number(str(item)))
        elif not isinstance(item, (bool, int, float, type(None))):
            return _at(place, f"is of type {type(item).__name__}, which JSON does not have; leave the field out")
    return None


def _explained(text: bytes, parse: Callable[[str], Any]) -> Any:
    """Parse a line; a failure gets a message that is the end of a sentence about the line."""
    try:
        return parse(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start + 1} of the line)") from None
    except RecursionError:
        raise ValueError("is not JSON: it is nested too deeply") from None
    except NotCarried:
        raise
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None


def _decode_line(text: str) -> Any:
    value, end, fault = _decode(text, _after_space(text, 0))
    end = _after_space(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    if fault:
        raise NotCarried(fault)
    return value


def _decode(text: str, start: int) -> tuple[Any, int, str | None]:
    """Parse the value at a position; returns it, the position after it, and why it cannot be carried, or None.

    Raises:
        JSONDecodeError: when there is no value.
        RecursionError: when it is nested too deeply to be parsed.
    """
    try:
        value, end = _STRICT.raw_decode(text, start)
    except NotCarried:
        value, end = _MARKING.raw_decode(text, start)
        return value, end, first_fault(value)
    # Looking at every value would take as long as parsing: a look at the text tells which rows need it.
    is_nested = text.count("[", start, end) + text.count("{", start, end) > MAXIMUM_NESTING
    if is_nested or _ESCAPED_HALF.search(text, start, end):
        return value, end, first_fault(value)
    return value, end, None


def _integer(text: str) -> int:
    if len(text) <= 20 and -(1 << 63) <= (value := int(text)) < 1 << 64:
        return value
    raise NotCarried("is an integer of more than 64 bits, which programs read differently; write it as a text")


def _float(text: str) -> float:
    value = float(text)
    if math.isfinite(value):
        return value
    raise NotCarried(f"is too large for a number ({text[:20]}); write it as a text")


def _constant(text: str) -> float:
    raise NotCarried(_not_a_number(text))


def _not_a_number(text: str) -> str:
    return f"is {text}, which JSON does not have; write null or a text"


def _marked(read: Callable[[str], Number]) -> Callable[[str], Number | NotCarried]:
    """Return the error in place of the value, so that its place can be found."""

    def mark(text: str) -> Number | NotCarried:
        try:
            return read(text)
        except NotCarried as error:
            return error

    return mark


_STRICT = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)
_MARKING = json.JSONDecoder(
    parse_int=_marked(_integer),
    parse_float=_marked(_float),
    parse_constant=_marked(_constant),
)


def _half_pair(text: str) -> str:
    match = _HALF.search(text)
    half = f" (\\u{ord(match.group()):04x})" if match else ""
    return f"half of a surrogate pair{half}, which is no character; correct or remove it"


def _at(place: Location, reason: str) -> str:
    name = format_location(place).encode("utf-8", "backslashreplace").decode()
    return f"{name} {reason}".lstrip()


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _other_encoding(head: bytes) -> str | None:
    """Say what a file is that begins with these bytes and is not UTF-8; None for all others."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) > 1 and head[:2].count(0) == 1):
        return "is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"
    for start, name in _COMPRESSED.items():
        if head.startswith(start):
            return f"is compressed with {name}; unpack it, or compress it with gzip"
    return None


def _bounded_lines(file: BufferedReader) -> Iterator[bytes]:
    unpacked = 0
    while line := file.readline(MAXIMUM_LINE_BYTES + 1):
        if len(line) > MAXIMUM_LINE_BYTES:
            raise TooLarge(f"has a line of more than {MAXIMUM_LINE_BYTES >> 20} MiB")
        unpacked += len(line)
        if unpacked > MAXIMUM_UNPACKED_BYTES and isinstance(file, gzip.GzipFile):
            raise TooLarge(f"unpacks to more than {MAXIMUM_UNPACKED_BYTES >> 20} MiB; split it")
        yield line


def _read_lines(path: Path, lines: Iterable[bytes], problems: list[str]) -> Iterator[DataRow]:
    for number, text in numbered_lines(lines):
        place = f"{path}:{number}"
        try:
            value = parse_row(text)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        if isinstance(value, dict):
            yield DataRow(number, place, text, value)
        else:
            problems.append(f"{place}: {_not_an_object(value)}")


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
        problems.append(f"{path}:{line}: is not UTF-8 (byte {error.start - line_start} of the line)")
        return
    yield from _read_elements(path, text, problems)


def _too_large_to_be_whole() -> str:
    return (
        f"is a JSON array of more than {MAXIMUM_WHOLE_BYTES >> 20} MiB, which is read whole; write one object per "
        f"line: jq -c '.[]' FILE > NEW"
    )


def _is_json(line: bytes) -> bool:
    try:
        parse_line(line)
    except ValueError:
        return False
    return True


def _read_elements(path: Path, text: str, problems: list[str]) -> Iterator[DataRow]:
    """Read the objects of an array, or objects that follow one another, each over several lines."""
    position = _after_space(text, 0)
    is_array = text[position] == "["
    position = _after_space(text, position + 1) if is_array else position
    number, line, counted = 0, 1, 0
    try:
        while position < len(text) and not (is_array and text[position] == "]"):
            line += text.count("\n", counted, position)
            counted = position
            value, end, fault = _decode(text, position)
            number += 1
            place = f"{path}:{line}: row {number}"
            if fault or not isinstance(value, dict):
                problems.append(f"{place}: {fault or _not_an_object(value)}")
            else:
                yield DataRow(number, place, json.dumps(value, ensure_ascii=False).encode(), value)
            position = _after_space(text, end)
            if is_array and text.startswith(",", position):
                position = _after_space(text, position + 1)
            elif is_array and not text.startswith("]", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
        if is_array and not text.startswith("]", position):
            raise json.JSONDecodeError("Expecting ']'", text, position)
        if is_array and _after_space(text, position + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, _after_space(text, position + 1))
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: is not JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        problems.append(f"{path}:{line}: is not JSON: it is nested too deeply")
