"""What goes wrong with an address or a model, in words for the user."""

from __future__ import annotations


class Problem(Exception):
    """Why a model or an adapter cannot be fetched or served.

    Args:
        message: names the address or file, and says what to do where that is not plain.
        permanent: whether trying again cannot help as long as nobody changes anything.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(message)
        self.permanent = permanent
