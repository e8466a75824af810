"""An API server that is a dictionary: it takes every write, and remembers the order."""

from __future__ import annotations

import itertools
from typing import Any

from rft_operator.kube.store import Key, Store, key_of


class RecordingCluster:
    """Takes every write, and remembers its order. What is applied completes the object that is there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sent: list[tuple[str, Any]] = []
        self._versions = itertools.count(1000)

    async def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        return self._take(obj["kind"], obj)

    async def apply(self, obj: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        return self._take(f"{obj['kind']}/{subresource}", obj)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self._store.get(Key(kind, namespace, name))

    async def delete(self, kind: str, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> bool:
        return name != "gone"

    def _take(self, what: str, obj: dict[str, Any]) -> dict[str, Any]:
        version = str(next(self._versions))
        self.sent.append((what, obj))
        held = self._store.get(key_of(obj["kind"], obj)) if "name" in obj["metadata"] else None
        there = held or {"metadata": {"uid": f"uid-{version}"}}
        return {**there, **obj, "metadata": {**there["metadata"], **obj["metadata"], "resourceVersion": version}}
