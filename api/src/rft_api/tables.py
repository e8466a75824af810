"""The rows of Parquet and Arrow files, in which Hugging Face stores datasets; needs the extra `logs` (pyarrow)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from rft_api.exact_json import first_fault
from rft_api.foreign.files import open_file
from rft_api.foreign.memory import bounded_growth
from rft_api.jsonl import MAXIMUM_ROWS, DataRow, TooLarge, too_many_rows

MAXIMUM_BYTES = 4 << 30
"""Size of a table without its compression; its rows are held in memory. Also the memory in which a batch is unpacked,
and that of its rows."""

_ROWS_AT_ONCE = 1024
"""Rows of a batch, which are unpacked together."""
_OBJECTS_AT_ONCE = 64
"""Rows of a batch that become objects together."""

_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def is_table(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a Parquet or Arrow file."""
    return head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))


def read_table_rows(path: Path, problems: list[str]) -> list[DataRow]:
    """Read the rows of a Parquet or Arrow file. Every problem is appended to `problems`, as FILE: row N: REASON."""
    import pyarrow  # slow to import, and only needed for such files

    rows, size = [], 0
    try:
        for number, unpacked in enumerate(_rows(path), start=1):
            row, place = _as_json(unpacked), f"{path}: row {number}"
            fault = first_fault(row)
            if fault:
                problems.append(f"{place}: {fault}")
                continue
            text = json.dumps(row, ensure_ascii=False).encode()
            size += len(text)
            _check_size(size)
            rows.append(DataRow(number, place, text, row))
    except TooLarge as error:
        problems.append(f"{path}: {error}")
    except (OSError, pyarrow.ArrowException) as error:
        problems.append(f"{path}: cannot be read as a table: {error}")
    except KeyError as error:  # a map column with a key twice
        problems.append(f"{path}: cannot be read as a table: {error.args[0]}")
    return rows


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a Parquet or Arrow file of a run, as Python has them.

    Raises:
        TooLarge: when it unpacks to too much.
        ValueError: when a map in it has a key twice.
        OSError, pyarrow.ArrowException: when it cannot be read, or is no table.
    """
    try:
        return list(_rows(path))
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows.

    A file of some kilobytes may hold a text that all rows share, a column of any length without any values, or batches
    that unpack to terabytes. So rows and bytes are counted, and what is unpacked at once has a limit of its own.

    Raises:
        TooLarge: when it unpacks to too much.
    """
    batches, count = _batches(path), 0
    limit = MAXIMUM_BYTES + path.stat().st_size  # the file may be mapped into the address space
    while (batch := _unpack(lambda: next(batches, None), limit)) is not None:
        count += batch.num_rows
        if count > MAXIMUM_ROWS:
            raise TooLarge(too_many_rows())
        for start in range(0, batch.num_rows, _OBJECTS_AT_ONCE):
            rows = batch.slice(start, _OBJECTS_AT_ONCE)
            yield from _unpack(partial(rows.to_pylist, maps_as_pydicts="strict"), MAXIMUM_BYTES)


def _unpack(unpack: Callable[[], Any], limit: int) -> Any:
    try:
        with bounded_growth(limit):
            return unpack()
    except MemoryError:
        raise TooLarge(f"takes more than {limit >> 20} MiB of memory to unpack; have less in each row") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    with open_file(path) as file:
        head = file.read(len(_ARROW_FILE))
    if head.startswith(_PARQUET):
        with pyarrow.parquet.ParquetFile(path) as table:
            groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
            _check_size(sum(group.total_byte_size for group in groups))
            yield from _bounded(table.iter_batches(batch_size=_ROWS_AT_ONCE))
        return
    _check_size(path.stat().st_size)
    if head.startswith(_ARROW_FILE):
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_file(file) as reader:
            yield from _bounded(reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
            yield from _bounded(reader)


def _bounded(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches; what a file says about the size of its rows may be anything, so that they are counted, too."""
    size = 0
    for batch in batches:
        size += batch.nbytes
        _check_size(size)
        yield batch


def _check_size(size: int) -> None:
    if size > MAXIMUM_BYTES:
        raise TooLarge(f"holds more than {MAXIMUM_BYTES >> 20} MiB; split it")


def _as_json(value: Any) -> Any:
    """Return a value of a table as JSON has it: timestamps, decimal numbers and the keys of maps become texts."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
