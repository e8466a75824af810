"""Bounds the memory of the bodies of all requests together: those that are being read, and those that are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Busy(Exception):
    """The bodies of other requests leave no room for this one."""


class Bodies:
    """The bytes of the bodies that a server holds.

    They are counted as they come, and not as a client announces them: a client that sends nothing takes no room from
    others. Nobody waits for room, because several half bodies could wait for one another.

    Args:
        limit: the largest number of bytes at the same time.
    """

    def __init__(self, limit: int):
        self._left = limit

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Hold a body inside this context, and yield a function that takes the size of each part of the body.

        Raises:
            Busy: there is no room for the part. The context is to be left, which makes room for others.
        """
        size = 0

        def take(more: int) -> None:
            nonlocal size
            if more > self._left:
                raise Busy
            self._left -= more
            size += more

        try:
            yield take
        finally:
            self._left += size
