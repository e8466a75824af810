"""The error for addresses and models that cannot be used, with a message for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rft_api.foreign.text import one_line
from rft_api.storage_error import StorageError

_LONGEST_MESSAGE = 2000
"""Characters of a message; the operator writes it to a condition."""


class Problem(Exception):
    """Why a model or an adapter cannot be fetched or served.

    Args:
        message: names the address or file, and says what to do unless that is obvious; becomes one line, because names
            in foreign files are a part of it.
        permanent: whether a retry cannot help until somebody changes something.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(one_line(message, _LONGEST_MESSAGE))
        self.permanent = permanent


@contextmanager
def storage_problems() -> Iterator[None]:
    """Turn errors of object stores and of the hub into problems.

    Raises:
        Problem: in place of a StorageError.
    """
    try:
        yield
    except StorageError as error:
        raise Problem(str(error), error.permanent) from error
