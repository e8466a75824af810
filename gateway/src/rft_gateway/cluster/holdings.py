"""What is kept of the objects of a kind: each namespace has a share of the memory, however many objects it has."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

T = TypeVar("T")
ObjectName = tuple[str, str]
"""Namespace and name of an object."""

NAMESPACE_BYTES = 16 << 20
"""What is kept of the objects of a kind in one namespace, at most: 10,000 keys that open ten models each."""
_ENTRY_BYTES = 512
"""What an object counts for beside its content: its name, and its place in a mapping."""


class Holdings(Generic[T]):
    """The objects of a kind, and a sentence for each one that is wrong."""

    def __init__(self) -> None:
        self.objects: dict[ObjectName, T] = {}
        self.errors: dict[ObjectName, str] = {}
        """A sentence for each object that is wrong."""
        self.full: set[str] = set()
        """Namespaces of which something was left out, because their share was used up."""
        self._sizes: dict[ObjectName, int] = {}
        self._used: Counter[str] = Counter()

    def put(self, name: ObjectName, value: T, size: int) -> None:
        """Keep an object in place of an earlier one of its name, if its namespace has room.

        Args:
            name: its namespace and name.
            value: what is kept of it.
            size: about how many bytes that takes.
        """
        if self._take(name, size):
            self.objects[name] = value

    def put_error(self, name: ObjectName, sentence: str) -> None:
        """Keep what is wrong with an object in place of an earlier one of its name, if its namespace has room."""
        if self._take(name, len(sentence)):
            self.errors[name] = sentence

    def remove(self, name: ObjectName) -> bool:
        """Forget an object; return whether its namespace has room again for some that were left out."""
        self.objects.pop(name, None)
        self.errors.pop(name, None)
        size = self._sizes.pop(name, 0)
        self._used[name[0]] -= size
        if not self._used[name[0]]:
            del self._used[name[0]]
        return size > 0 and name[0] in self.full

    def _take(self, name: ObjectName, size: int) -> bool:
        self.remove(name)
        size += _ENTRY_BYTES
        if self._used[name[0]] + size > NAMESPACE_BYTES:
            self.full.add(name[0])
            return False
        self._sizes[name] = size
        self._used[name[0]] += size
        return True
