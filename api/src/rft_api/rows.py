"""The rows of users' data, whatever they are written in: its first bytes tell JSON and tables from one another."""

from __future__ import annotations

from pathlib import Path

from rft_api.jsonl import DataRow, read_json_rows
from rft_api.tables import is_table, read_table_rows


def read_rows(path: Path, problems: list[str]) -> list[DataRow]:
    """Read the objects of a file: JSONL, a JSON array, Parquet or Arrow; JSON may be compressed with gzip.

    Every problem is appended to `problems`, as FILE:LINE: REASON, FILE: row N: REASON, or FILE: REASON.
    """
    before = len(problems)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        problems.append(f"{path}: {error.strerror or error}")
        return []
    rows = read_table_rows(path, problems) if is_table(head) else read_json_rows(path, problems)
    if not rows and len(problems) == before:
        problems.append(f"{path}: is empty; expected one JSON object per line")
    return rows
