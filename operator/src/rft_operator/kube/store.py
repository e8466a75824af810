"""The watched objects, compressed in memory and indexed by owner and by reference.

What nobody here reads is left out: annotations of our resources and of pods, which can have 256 KiB (but for those that
ask something of the operator), and most of the specs of pods. A tenant can fill the rest, up to the allowance of its
namespace: what exceeds it is left out, and then nothing can be planned soundly in the namespace.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from rft_api.model import Json
from rft_operator.kube import names
from rft_operator.kube.kinds import KINDS, OURS, POD, Kind

M = TypeVar("M", bound=BaseModel)

ALLOWANCE_BYTES = 128 << 20
"""Memory for the objects of one namespace: 25,000 usual jobs, with the objects that belong to each of them."""
ENTRY_BYTES = 600
"""Memory that a stored object takes beside its compressed content, as measured."""
REFERENCE_BYTES = 300
"""Memory that a reference to another resource takes."""
ANNOTATION_CHARACTERS = 64
"""Characters that are kept of an annotation of our resources; those that the operator reads are shorter."""
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

    @property
    def size(self) -> int:
        """About the number of bytes of memory that it takes."""
        return len(self.packed) + ENTRY_BYTES + REFERENCE_BYTES * len(self.references)


class Store:
    """The watched objects by key. Versions older than the stored one are ignored, so their order does not matter.

    Args:
        references: by kind, the function that finds the resources which an object refers to. Objects of other kinds
            have no references.
        allowance: the largest number of bytes of memory for the objects of one namespace.
    """

    def __init__(
        self, references: Mapping[str, Callable[[Json], Iterable[Key]]], allowance: int = ALLOWANCE_BYTES
    ) -> None:
        self._find_references = references
        self._allowance = allowance
        self._sizes: Counter[str] = Counter()
        """Bytes of the objects of each namespace."""
        self._left_out: defaultdict[str, dict[Key, tuple[str, int]]] = defaultdict(dict)
        """By namespace, the objects for which there is no room, with uid and version."""
        self._entries: dict[Key, _Entry] = {}
        self._children: defaultdict[Key, set[Key]] = defaultdict(set)
        self._referrers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._tombstones: dict[str, float] = {}

    def put(self, kind: str, obj: Json) -> bool:
        """Store an object; return whether it is newer than the stored one, and differs in what is kept of it.

        An object for which its namespace has no room is left out, and True is returned. It is stored when it comes
        again, as it does in each resynchronisation, and there is room.
        """
        key, metadata = key_of(kind, obj), obj["metadata"]
        version = int(metadata["resourceVersion"])
        entry = self._entries.get(key)
        if metadata["uid"] in self._tombstones or (entry is not None and entry.version >= version):
            return False
        if version < self._left_out.get(key.namespace, {}).get(key, ("", 0))[1]:
            return False
        packed = _pack(kind, obj)
        if entry is not None and entry.uid == metadata["uid"] and entry.packed == packed:
            self._entries[key] = replace(entry, version=version)
            return False
        self._drop(key)
        owner = owner_of(obj) if KINDS[kind].child else None
        references = tuple(set(self._find_references[kind](obj))) if kind in self._find_references else ()
        entry = _Entry(metadata["uid"], version, packed, owner, references)
        if self._sizes[key.namespace] + entry.size > self._allowance:
            self._left_out[key.namespace][key] = metadata["uid"], version
            return True
        self._entries[key] = entry
        self._sizes[key.namespace] += entry.size
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
        if uid in (entry.uid if entry is not None else None, self.left_out(key)):
            self._drop(key)

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
        for key, (_, left_out_version) in [each for keys in self._left_out.values() for each in keys.items()]:
            in_list = key.kind == kind and namespace in (None, key.namespace)
            if in_list and key not in listed and left_out_version <= version:
                self._drop(key)
        return [_unpack(entry) for key in missing if (entry := self._drop(key)) is not None]

    def is_full(self, namespace: str) -> bool:
        """Return whether objects of a namespace are left out, because the others take all of its memory."""
        return namespace in self._left_out

    def left_out(self, key: Key) -> str | None:
        """Return the uid of an object that is left out; None when it is not."""
        return self._left_out.get(key.namespace, {}).get(key, (None, 0))[0]

    def sizes(self) -> dict[str, int]:
        """Return about the bytes of memory that the objects of each namespace take."""
        return dict(self._sizes)

    def get(self, key: Key) -> Json | None:
        """Return an object, or None when it is not stored."""
        entry = self._entries.get(key)
        return None if entry is None else _unpack(entry)

    def version(self, key: Key) -> int | None:
        """Return the stored version of an object, or None when it is not stored."""
        entry = self._entries.get(key)
        return None if entry is None else entry.version

    def fingerprint(self, key: Key, applied: Json) -> bytes | None:
        """Return a digest of a stored object, or None when it is not stored.

        Its status is left out, and so are labels and annotations that the applied object does not have: Kubernetes'
        controllers and others add theirs, such as the revision of a Deployment, and applying again would keep them.

        Args:
            key: the object.
            applied: what the operator applies.
        """
        obj = self.get(key)
        return None if obj is None else _fingerprint(obj, applied)

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
        children = [_unpack(self._entries[key]) for key in keys]
        return children if uid is None else [child for child in children if _is_owned(child, uid)]

    def referrers(self, target: Key) -> list[Key]:
        """Return the resources that refer to this one."""
        return sorted(self._referrers.get(target, ()))

    def keys(self, kind: str) -> Iterator[Key]:
        """Return the keys of all objects of a kind."""
        return (key for key in list(self._entries) if key.kind == kind)

    def _drop(self, key: Key) -> _Entry | None:
        """Forget an object, whether it is stored or left out; return what was stored of it."""
        left_out = self._left_out.get(key.namespace)
        if left_out is not None and left_out.pop(key, None) is not None and not left_out:
            del self._left_out[key.namespace]
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._sizes[key.namespace] -= entry.size
        if not self._sizes[key.namespace]:
            del self._sizes[key.namespace]
        for index, target in [(self._children, entry.owner), *((self._referrers, to) for to in entry.references)]:
            if target is not None and target in index:
                index[target].discard(key)
                if not index[target]:
                    del index[target]
        return entry


def _is_owned(obj: Json, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences", []))


def _fingerprint(obj: Json, applied: Json) -> bytes:
    kept = [obj["metadata"].get("ownerReferences")]
    for field in ("labels", "annotations"):
        present = obj["metadata"].get(field, {})
        kept.append({name: present.get(name) for name in applied["metadata"].get(field, {})})
    content = {name: value for name, value in obj.items() if name not in ("metadata", "status")}
    return hashlib.sha256(json.dumps([kept, content], sort_keys=True).encode()).digest()[:16]


def _pack(kind: str, obj: Json) -> bytes:
    """Compress what is kept of an object, which is everything but its version for most kinds."""
    left_out = {"managedFields", "resourceVersion"}
    if KINDS[kind].ours or kind == POD.name:
        left_out.add("annotations")
    metadata = {name: value for name, value in obj["metadata"].items() if name not in left_out}
    annotations = obj["metadata"].get("annotations", {})
    relevant = {name: annotations[name] for name in KINDS[kind].annotations if name in annotations}
    if relevant:
        metadata["annotations"] = {name: text[:ANNOTATION_CHARACTERS] for name, text in relevant.items()}
    kept = {**obj, "metadata": metadata}
    if kind == POD.name:
        initial = obj.get("spec", {}).get("initContainers", [])
        fields = ("name", "restartPolicy")
        kept["spec"] = {"initContainers": [{name: c[name] for name in fields if name in c} for c in initial]}
    return zlib.compress(json.dumps(kept, separators=(",", ":")).encode(), 1)


def _unpack(entry: _Entry) -> Json:
    unpacked: Json = json.loads(zlib.decompress(entry.packed))
    unpacked["metadata"]["resourceVersion"] = str(entry.version)
    return unpacked
