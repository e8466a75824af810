"""What the watches have brought: every object that plans look at, kept small, found by owner and by reference."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from rft_api.model import Json
from rft_operator.kube import names
from rft_operator.kube.kinds import KINDS, OURS, Kind

M = TypeVar("M", bound=BaseModel)

TOMBSTONE_SECONDS = 120.0
"""How long a deleted object is remembered: a list that was read before may still hold it."""


class Key(NamedTuple):
    """Names an object."""

    kind: str
    namespace: str
    name: str


def key_of(kind: str, obj: Json) -> Key:
    """The key of an object."""
    return Key(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


_KIND_OF_COMPONENT = {kind.component: kind.name for kind in OURS}


def owner_of(obj: Json) -> Key | None:
    """The object of ours that a child belongs to, by its labels."""
    labels = obj["metadata"].get("labels", {})
    kind = _KIND_OF_COMPONENT.get(labels.get(names.COMPONENT, ""))
    owner = labels.get(names.OWNER)
    return Key(kind, obj["metadata"]["namespace"], owner) if kind is not None and owner else None


@dataclass(frozen=True, slots=True)
class _Entry:
    uid: str
    version: int
    packed: bytes
    owner: Key | None
    references: tuple[Key, ...]


class Store:
    """Objects by key. Older versions than the one that is held are ignored, whatever order they come in.

    Args:
        references: by kind, what finds the other objects that an object refers to. Other kinds refer to none.
    """

    def __init__(self, references: Mapping[str, Callable[[Json], Iterable[Key]]]) -> None:
        self._find_references = references
        self._entries: dict[Key, _Entry] = {}
        self._children: defaultdict[Key, set[Key]] = defaultdict(set)
        self._referring: defaultdict[Key, set[Key]] = defaultdict(set)
        self._tombstones: dict[str, float] = {}

    def put(self, kind: str, obj: Json) -> bool:
        """Remembers an object; whether it was news."""
        key, metadata = key_of(kind, obj), obj["metadata"]
        version = int(metadata["resourceVersion"])
        held = self._entries.get(key)
        if metadata["uid"] in self._tombstones or (held is not None and held.version >= version):
            return False
        self._unlink(key)
        owner = owner_of(obj) if KINDS[kind].child else None
        references = tuple(set(self._find_references[kind](obj))) if kind in self._find_references else ()
        self._entries[key] = _Entry(metadata["uid"], version, _pack(obj), owner, references)
        if owner is not None:
            self._children[owner].add(key)
        for target in references:
            self._referring[target].add(key)
        return True

    def remove(self, kind: str, obj: Json) -> None:
        """Forgets an object that was deleted."""
        key, uid = key_of(kind, obj), obj["metadata"]["uid"]
        now = time.monotonic()
        while self._tombstones and next(iter(self._tombstones.values())) < now - TOMBSTONE_SECONDS:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[uid] = now
        held = self._entries.get(key)
        if held is not None and held.uid == uid:
            self._unlink(key)
            del self._entries[key]

    def prune(self, kind: str, namespace: str | None, listed: Container[Key], version: int) -> list[Json]:
        """Forgets, and returns, what a complete list read at `version` lacks: it was deleted unannounced.

        The list is of one namespace, or of all.
        """
        gone = [
            key
            for key, entry in self._entries.items()
            if key.kind == kind
            and namespace in (None, key.namespace)
            and key not in listed
            and entry.version <= version
        ]
        for key in gone:
            self._unlink(key)
        return [_unpack(self._entries.pop(key).packed) for key in gone]

    def get(self, key: Key) -> Json | None:
        """An object."""
        entry = self._entries.get(key)
        return None if entry is None else _unpack(entry.packed)

    def version(self, key: Key) -> int | None:
        """The version that is held of an object."""
        entry = self._entries.get(key)
        return None if entry is None else entry.version

    def fingerprint(self, key: Key) -> bytes | None:
        """Changes when anything of an object changes but its status."""
        obj = self.get(key)
        return None if obj is None else _fingerprint(obj)

    def read(self, model: type[M], key: Key) -> M | None:
        """An object as a model; None when there is none, or when it is not valid."""
        obj = self.get(key)
        try:
            return None if obj is None else model.model_validate(obj)
        except ValidationError:
            return None

    def children(self, owner: Key, kind: Kind, uid: str | None = None) -> list[Json]:
        """Children of an object, by name.

        Args:
            owner: the object.
            kind: the kind of the children.
            uid: only those with an owner reference to it, and none of an earlier object of the owner's name.
        """
        keys = sorted(key for key in self._children.get(owner, ()) if key.kind == kind.name)
        children = [_unpack(self._entries[key].packed) for key in keys]
        return children if uid is None else [child for child in children if _is_owned(child, uid)]

    def referring(self, target: Key) -> list[Key]:
        """Objects of ours whose plans look at this one."""
        return sorted(self._referring.get(target, ()))

    def keys(self, kind: str) -> Iterator[Key]:
        """Keys of all objects of a kind."""
        return (key for key in list(self._entries) if key.kind == kind)

    def _unlink(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        for index, target in [(self._children, entry.owner), *((self._referring, to) for to in entry.references)]:
            if target is not None and target in index:
                index[target].discard(key)
                if not index[target]:
                    del index[target]


def _is_owned(obj: Json, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", []))


def _fingerprint(obj: Json) -> bytes:
    metadata = obj["metadata"]
    kept = {name: metadata.get(name) for name in ("labels", "annotations", "ownerReferences")}
    content = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return hashlib.sha256(json.dumps([kept, content], sort_keys=True).encode()).digest()[:16]


def _pack(obj: Json) -> bytes:
    metadata = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return zlib.compress(json.dumps({**obj, "metadata": metadata}, separators=(",", ":")).encode(), 1)


def _unpack(packed: bytes) -> Json:
    unpacked: Json = json.loads(zlib.decompress(packed))
    return unpacked
