"""Checks a file of training data, in a process of its own: in the gateway, parsing would hold up all requests.

Its output is a list in JSON of what is wrong. The reader is that of jobs and of `rft data check`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from rft_api.exact_json import parse_row
from rft_api.foreign.files import most_values, open_file
from rft_api.foreign.text import one_line
from rft_api.jsonl import DataRow, LineFault, iterate_lines
from rft_api.openai_chat import split_row
from rft_api.tables import is_table
from rft_gateway.files.limits import CHECK_MEMORY_BYTES, CHECK_SECONDS, LINE_BYTES, LINE_VALUES, PROBLEMS

NICENESS = 10
"""What this process leaves to the gateway where both want the same processor core."""
MEMORY_CODE = 3
"""Exit code where the memory was not enough."""
_LONGEST_PROBLEM = 400
"""Characters of a problem; it may quote a value of the data, which may have any size."""


def find_problems(path: Path) -> list[str]:
    """Return what is wrong with a file of training data, the first few lines of it; nothing if it can be used.

    Raises:
        OSError: when the file cannot be read.
    """
    return [one_line(problem, _LONGEST_PROBLEM) for problem in islice(_problems(path), PROBLEMS)]


def _problems(path: Path) -> Iterator[str]:
    with open_file(path) as file:
        if is_table(file.peek(8)):
            yield "is a table (Parquet or Arrow), not JSONL"
            return
    is_empty = True
    for each in iterate_lines(path, LINE_BYTES, _parse):
        is_empty = False
        if isinstance(each, LineFault):
            yield each.reason if each.number is None else f"line {each.number}: {each.reason}"
        elif problem := _problem(each):
            yield f"line {each.number}: {problem}"
    if is_empty:
        yield "is empty; expected one JSON object per line"


def _parse(line: bytes) -> Any:
    if most_values(line) > LINE_VALUES:
        raise ValueError(f"has more than {LINE_VALUES:,} values")
    return parse_row(line)


def _problem(row: DataRow) -> str | None:
    """Return why a row can neither be continued, for reinforcement, nor imitated, for supervised fine-tuning."""
    messages = row.row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    is_answered = isinstance(last, dict) and last.get("role") == "assistant"
    try:
        split_row(row.row, "conversation" if is_answered else "prompt", every_answer=True)
    except ValueError as error:
        return str(error)
    return None


def main() -> None:
    """Check the file that the command line names, within limits of time and memory, and print the problems as JSON."""
    os.nice(NICENESS)
    signal.alarm(CHECK_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (CHECK_MEMORY_BYTES, CHECK_MEMORY_BYTES))
    try:
        problems = find_problems(Path(sys.argv[1]))
    except MemoryError:
        sys.exit(MEMORY_CODE)
    sys.stdout.buffer.write(orjson.dumps(problems))


if __name__ == "__main__":
    main()
