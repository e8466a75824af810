"""The error of everything that models and data are fetched from."""

from __future__ import annotations


class StorageError(Exception):
    """An object store or the Hugging Face hub has refused something, or could not be reached.

    Args:
        message: what was tried on which address, and why it failed.
        permanent: whether trying again cannot help: nothing is there, or it may not be read.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(message)
        self.permanent = permanent
