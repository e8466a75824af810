"""The errors of other services. Their messages are for users."""

from __future__ import annotations

from rft_api.foreign.text import one_line


class RemoteError(Exception):
    """The service has not given a valid answer, and repeating the request will not help."""


class OutOfTimeError(RemoteError):
    """There was no valid answer within the time limit."""


class TransientError(Exception):
    """The service may answer when the request is repeated.

    Args:
        message: the problem.
        after: seconds after which the service asks to repeat the request; None if it does not say so.
        failed: whether the service answered with a failure (5xx), and did not ask to repeat the request later.
    """

    def __init__(self, message: str, after: float | None = None, failed: bool = False):
        super().__init__(message)
        self.after = after
        self.failed = failed


def shortened(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return the text of a service, for a row: in one line, limited in length, and without credentials that it
    repeats."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return one_line(text, 500)
