"""The rows of users' data, whatever they are written in: its first bytes tell JSON and tables from one another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rft_api.dataset_files import dataset_files
from rft_api.foreign.files import open_file
from rft_api.jsonl import DataRow, read_json_rows
from rft_api.tables import is_table, read_table_rows


def read_rows(path: Path, problems: list[str], split: str | None = None) -> list[DataRow]:
    """Read the objects of a file: JSONL, a JSON array, Parquet or Arrow; JSON may be compressed with gzip.

    Of a folder, the files of one split are read, in the order of their names; their rows are counted through.

    Args:
        path: the file or folder.
        problems: the list to which every problem is appended, as FILE:LINE: REASON, FILE: row N: REASON, or
            FILE: REASON.
        split: the split of a folder with several.
    """
    if not path.is_dir():
        return _read_file(path, problems)
    names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    try:
        files = dataset_files(names, split)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return []
    rows = (row for file in files for row in _read_file(path / file, problems))
    return [replace(row, number=number) for number, row in enumerate(rows, start=1)]


def _read_file(path: Path, problems: list[str]) -> list[DataRow]:
    before = len(problems)
    try:
        with open_file(path) as file:
            head = file.read(8)
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
        return []
    rows = read_table_rows(path, problems) if is_table(head) else read_json_rows(path, problems)
    if not rows and len(problems) == before:
        problems.append(f"{path}: is empty; expected one JSON object per line")
    return rows
