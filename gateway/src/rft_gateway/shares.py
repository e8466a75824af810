"""Memory that namespaces share: none takes the room of the others, however much it asks for."""

from __future__ import annotations

from collections import Counter


def fits(size: int, own: int, all_: int, limit: int) -> bool:
    """Return whether somebody may hold more: afterwards, as much must be left for the others as this one holds.

    So one alone gets half of the limit, two get a third each, and a new one always finds room.

    Args:
        size: how much more.
        own: what it holds already.
        all_: what all hold together, with this one.
        limit: what all may hold together.
    """
    return own + size <= limit - all_ - size


class Shares:
    """Bytes that are held for namespaces.

    Args:
        limit: bytes of all namespaces together.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._sizes: Counter[str] = Counter()
        self.size = 0
        """Bytes of all namespaces."""

    def have_room(self, namespace: str, size: int) -> bool:
        """Return whether a namespace may hold so many more bytes."""
        return fits(size, self._sizes[namespace], self.size, self._limit)

    def add(self, namespace: str, size: int) -> None:
        """Hold bytes for a namespace; a negative number gives them back."""
        self.size += size
        self._sizes[namespace] += size
        if not self._sizes[namespace]:
            del self._sizes[namespace]
