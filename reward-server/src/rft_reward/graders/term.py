"""The interface of the graders: the limits of a call, the errors that it may raise, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Call:
    """The call of a grader for one batch."""

    nonce: bytes
    seconds: float
    deadline: float
    request_id: str


Grade = Callable[[bytes, Call], bytes]
"""A function that scores a JSON array of samples. It raises `Unscorable`, `TimeLimit` or `MemoryError`."""


class Unscorable(Exception):
    """A sample or a batch has no score. The message tells the user why."""

    def __init__(self, message: str, reason: str = "raised"):
        super().__init__(message)
        self.reason = reason


class TimeLimit(BaseException):
    """Raised in running code at the end of its time. It is no Exception, so `except Exception` does not catch it."""
