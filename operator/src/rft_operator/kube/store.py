"""The watched objects, compressed in memory and indexed by owner and by reference."""

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
"""Seconds for which the uid of a deleted object is kept: a list that was read before the deletion may contain it."""


class Key(NamedTuple):
    """The kind, namespace and name of an object."""

    kind: str
    namespace: str
    name: str


def key_of(kind: str, obj: Json) -> Key:
    """Return the key of an object."""
    return Key(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


_KIND_OF_COMPONENT = {kind.component: kind.name for kind in OURS}


def owner_of(obj: Json) -> Key | None:
    """Return the resource that a child belongs to according to its labels; None when there is none."""
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
    """The watched objects by key. Versions older than the stored one are ignored, so their order does not matter.

    Args:
        references: by kind, the function that finds the resources which an object refers to. Objects of other kinds
            have no references.
    """

    def __init__(self, references: Mapping[str, Callable[[Json], Iterable[Key]]]) -> None:
        self._find_references = references
        self._entries: dict[Key, _Entry] = {}
        self._children: defaultdict[Key, set[Key]] = defaultdict(set)
        self._referrers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._tombstones: dict[str, float] = {}

    def put(self, kind: str, obj: Json) -> bool:
        """Store an object; return whether it is newer than the stored one."""
        key, metadata = key_of(kind, obj), obj["metadata"]
        version = int(metadata["resourceVersion"])
        entry = self._entries.get(key)
        if metadata["uid"] in self._tombstones or (entry is not None and entry.version >= version):
            return False
        self._unlink(key)
        owner = owner_of(obj) if KINDS[kind].child else None
        references = tuple(set(self._find_references[kind](obj))) if kind in self._find_references else ()
        self._entries[key] = _Entry(metadata["uid"], version, _pack(obj), owner, references)
        if owner is not None:
            self._children[owner].add(key)
        for target in references:
            self._referrers[target].add(key)
        return True

    def remove(self, kind: str, obj: Json) -> None:
        """Remove an object that was deleted."""
        key, uid = key_of(kind, obj), obj["metadata"]["uid"]
        now = time.monotonic()
        while self._tombstones and next(iter(self._tombstones.values())) < now - TOMBSTONE_SECONDS:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[uid] = now
        entry = self._entries.get(key)
        if entry is not None and entry.uid == uid:
            self._unlink(key)
            del self._entries[key]

    def prune(self, kind: str, namespace: str | None, listed: Container[Key], version: int) -> list[Json]:
        """Remove the objects that a complete list lacks, because no watch has reported their deletion; return them.

        Args:
            kind: the kind that was listed.
            namespace: the namespace that was listed; None for all namespaces.
            listed: the keys in the list.
            version: the resource version at which the list was read; newer objects are kept.
        """
        missing = [
            key
            for key, entry in self._entries.items()
            if key.kind == kind
            and namespace in (None, key.namespace)
            and key not in listed
            and entry.version <= version
        ]
        for key in missing:
            self._unlink(key)
        return [_unpack(self._entries.pop(key).packed) for key in missing]

    def get(self, key: Key) -> Json | None:
        """Return an object, or None when it is not stored."""
        entry = self._entries.get(key)
        return None if entry is None else _unpack(entry.packed)

    def version(self, key: Key) -> int | None:
        """Return the stored version of an object, or None when it is not stored."""
        entry = self._entries.get(key)
        return None if entry is None else entry.version

    def fingerprint(self, key: Key) -> bytes | None:
        """Return a digest of an object without its status, or None when it is not stored."""
        obj = self.get(key)
        return None if obj is None else _fingerprint(obj)

    def read(self, model: type[M], key: Key) -> M | None:
        """Return an object as a model; None when it is not stored or not valid."""
        obj = self.get(key)
        try:
            return None if obj is None else model.model_validate(obj)
        except ValidationError:
            return None

    def children(self, owner: Key, kind: Kind, uid: str | None = None) -> list[Json]:
        """Return the children of a resource in the order of their names.

        Args:
            owner: the resource.
            kind: the kind of the children.
            uid: the uid of the resource. Where it is given, children of an earlier resource of the same name are left
                out.
        """
        keys = sorted(key for key in self._children.get(owner, ()) if key.kind == kind.name)
        children = [_unpack(self._entries[key].packed) for key in keys]
        return children if uid is None else [child for child in children if _is_owned(child, uid)]

    def referrers(self, target: Key) -> list[Key]:
        """Return the resources that refer to this one."""
        return sorted(self._referrers.get(target, ()))

    def keys(self, kind: str) -> Iterator[Key]:
        """Return the keys of all objects of a kind."""
        return (key for key in list(self._entries) if key.kind == kind)

    def _unlink(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        for index, target in [(self._children, entry.owner), *((self._referrers, to) for to in entry.references)]:
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
