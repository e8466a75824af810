"""What goes wrong with an address or a model, in words for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rft_api.storage_error import StorageError


class Problem(Exception):
    """Why a model or an adapter cannot be fetched or served.

    Args:
        message: names the address or file, and says what to do where that is not plain.
        permanent: whether trying again cannot help as long as nobody changes anything.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(message)
        self.permanent = permanent


@contextmanager
def storage_problems() -> Iterator[None]:
    """Errors of object stores and of the hub are problems of the address.

    Raises:
        Problem: in place of a StorageError.
    """
    try:
        yield
    except StorageError as error:
        raise Problem(str(error), error.permanent) from error
