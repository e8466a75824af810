"""The error for addresses and models that cannot be used, with a message for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rft_api.storage_error import StorageError


class Problem(Exception):
    """Why a model or an adapter cannot be fetched or served.

    Args:
        message: names the address or file, and says what to do unless that is obvious.
        permanent: whether a retry cannot help until somebody changes something.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(message)
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
