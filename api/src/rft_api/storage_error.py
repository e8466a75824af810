"""The error of everything that models and data are fetched from."""

from __future__ import annotations

from rft_api.foreign.names import check_relative_name
from rft_api.foreign.text import one_line

_LONGEST_MESSAGE = 2000
"""Characters of a message; it becomes a condition of a resource."""


class StorageError(Exception):
    """An object store or the Hugging Face hub has refused something, or could not be reached.

    Args:
        message: what was tried on which address, and why it failed; becomes one line, because what stores say is a part
            of it.
        permanent: whether trying again cannot help: nothing is there, or it may not be read.
        request_failed: whether a request to the store has failed, so that credentials or address may be the cause;
            other errors are about what is stored.
    """

    def __init__(self, message: str, permanent: bool = True, *, request_failed: bool = False):
        super().__init__(one_line(message, _LONGEST_MESSAGE))
        self.permanent = permanent
        self.request_failed = request_failed


def check_stored_name(uri: str, name: str) -> None:
    """Refuse the name of a stored file: whoever may write to the store could otherwise write files of this machine.

    Args:
        uri: the address that it is below.
        name: its name, relative to the address.

    Raises:
        StorageError: when the name leads out of the folder that the file is copied to.
    """
    try:
        check_relative_name(name)
    except ValueError as error:
        raise StorageError(f"{uri}: {one_line(name, 200)!r} below it {error}; rename it") from None
