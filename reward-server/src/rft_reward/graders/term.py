"""What every grader is made of: the call's limits, the errors that it may raise, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Call:
    """One batch, as the server asked for it."""

    nonce: bytes
    seconds: float
    deadline: float
    request_id: str


Grade = Callable[[bytes, Call], bytes]
"""From the batch's JSON array to the answer as JSON; raises `Unscorable`, `TimeLimit` or `MemoryError`."""


class Unscorable(Exception):
    """A sample or batch that has no score, and why, for the user."""

    def __init__(self, message: str, reason: str = "raised"):
        super().__init__(message)
        self.reason = reason


class TimeLimit(BaseException):
    """Raised in running code when its time is up; no Exception, so that `except Exception` lets it pass."""
