"""What can go wrong with another service, with the text that the user reads."""

from __future__ import annotations


class RemoteError(Exception):
    """The other service gave no usable answer, and asking again will not help."""


class OutOfTimeError(RemoteError):
    """There was no usable answer before the time was up."""


class TransientError(Exception):
    """The other service may answer when asked again.

    Args:
        message: what happened.
        after: seconds that the service wants to be left alone, if it said so.
        failed: whether the service answered that it has failed (5xx), and did not ask for time.
    """

    def __init__(self, message: str, after: float | None = None, failed: bool = False):
        super().__init__(message)
        self.after = after
        self.failed = failed


def shortened(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A service's own words, fit for a row: in one line, not too long, without credentials that it repeats."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:500] + " ..."
