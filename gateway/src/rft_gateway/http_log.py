"""What the HTTP server logs: no bytes of a request, for they may be those of a key or of a prompt."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


def http_logger() -> logging.Logger:
    """Return the logger for servers of aiohttp."""
    logger = logging.getLogger("rft_gateway.http")
    logger.addFilter(_take_bytes_out)
    return logger


def _take_bytes_out(record: logging.LogRecord) -> bool:
    """Drop what is no HTTP, which its client is told; anybody could fill the log with it. Of the rest, keep the type.

    The messages and traces of these errors have the bytes that could not be read.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        return False
    if error is not None:
        record.msg, record.args = "a connection has failed: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
    return True
