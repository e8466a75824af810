"""Whom a change concerns: whose plan has to be made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rft_api.model import Json
from rft_operator.kube.kinds import POD
from rft_operator.kube.store import Key, Store, key_of, owner_of
from rft_operator.reconcile.resource import Resource


class Router:
    """Puts what is read or written into the store, and says whose plan may change by it.

    Attributes:
        store: holds everything that plans look at.
    """

    def __init__(self, resources: Sequence[Resource[Any]]):
        self.store = Store({resource.kind.name: resource.references for resource in resources})
        self._resources = {resource.kind.name: resource for resource in resources}

    def take_event(self, kind: str, type_: str | None, obj: Json) -> list[Key]:
        """Takes over one event of a watch; returns whom it concerns, nobody if it is no news."""
        if type_ == "DELETED":
            keys = self.concerned(kind, obj)
            self.store.remove(kind, obj)
            return keys
        return self.concerned(kind, obj) if self.store.put(kind, obj) else []

    def take_answer(self, writer: Key, obj: Json) -> list[Key]:
        """Takes over what the API server answered to a write; its watch event will be no news.

        Returns whom it concerns, but for the writer, who knows.
        """
        return [key for key in self.take_event(obj["kind"], None, obj) if key != writer]

    def concerned(self, kind: str, obj: Json) -> list[Key]:
        """Objects of ours whose plans look at this one."""
        resource = self._resources.get(kind)
        if resource is not None:
            key = key_of(kind, obj)
            return [key, *self.store.referring(key), *resource.looked_at_by(obj)]
        owner = owner_of(obj)
        if owner is None:
            return []
        shared = kind == POD.name and self._resources[owner.kind].pods_concern_referrers
        return [owner, *(self.store.referring(owner) if shared else [])]
