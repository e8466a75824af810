"""Writes the lines of a log: each record is one line, whatever foreign text it repeats, and cannot forge another."""

from __future__ import annotations

import logging
from typing import Any

from rft_api.foreign.text import one_line

LONGEST_LINE = 8192
"""Largest number of characters of a message."""
_LONGEST_TRACEBACK = 400


class LineFormatter(logging.Formatter):
    """Formats a record as one line. The lines of a traceback follow it, each behind a mark."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of the record."""
        record.message = one_line(record.message, LONGEST_LINE)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback; the message of its exception may have lines of its own."""
        return _marked(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Return the stack."""
        return _marked(super().formatStack(stack_info))


def _marked(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(f"  | {_indentation(line)}{one_line(line, LONGEST_LINE)}" for line in lines[-_LONGEST_TRACEBACK:])


def _indentation(line: str) -> str:
    return " " * min(len(line) - len(line.lstrip(" ")), 8)
