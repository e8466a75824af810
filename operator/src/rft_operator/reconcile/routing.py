"""Which resources a change affects, so that they have to be reconciled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rft_api.model import Json
from rft_operator.kube.kinds import POD
from rft_operator.kube.store import Key, Store, key_of, owner_of
from rft_operator.reconcile.resource import Resource


class Router:
    """Stores the objects that are read or written, and finds the resources that the change affects.

    Args:
        resources: the resources of the project.

    Attributes:
        store: the watched objects.
    """

    def __init__(self, resources: Sequence[Resource[Any]]):
        self.store = Store({resource.kind.name: resource.references for resource in resources})
        self._resources = {resource.kind.name: resource for resource in resources}

    def store_event(self, kind: str, type_: str | None, obj: Json) -> list[Key]:
        """Store an event of a watch; return the resources that it affects, none when the store is as new already.

        Args:
            kind: the kind of the object.
            type_: `DELETED`, or anything else for an object that exists.
            obj: the object.
        """
        if type_ == "DELETED":
            keys = self.affected(kind, obj)
            self.store.remove(kind, obj)
            return keys
        return self.affected(kind, obj) if self.store.put(kind, obj) else []

    def store_response(self, writer: Key, obj: Json) -> list[Key]:
        """Store an object that a write has returned; return the resources that it affects, without the writer.

        The watch event of the write then changes nothing.

        Args:
            writer: the resource for which the object was written.
            obj: the object.
        """
        return [key for key in self.store_event(obj["kind"], None, obj) if key != writer]

    def affected(self, kind: str, obj: Json) -> list[Key]:
        """Return the resources whose plans depend on an object."""
        resource = self._resources.get(kind)
        if resource is not None:
            key = key_of(kind, obj)
            return [key, *self.store.referrers(key), *resource.back_references(obj)]
        owner = owner_of(obj)
        if owner is None:
            return []
        shared = kind == POD.name and self._resources[owner.kind].pods_affect_referrers
        return [owner, *(self.store.referrers(owner) if shared else [])]
