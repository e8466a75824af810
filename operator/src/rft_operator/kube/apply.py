"""Execute plans: delete, create and apply the objects of a plan, and write a status when it has changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable

from rft_api.model import Json
from rft_operator.kube.cluster import Cluster, Conflict
from rft_operator.kube.kinds import KINDS
from rft_operator.kube.plan import DesiredObject, Plan
from rft_operator.kube.store import Key, Store, key_of

log = logging.getLogger(__name__)

StoreResponse = Callable[[Key, Json], None]
"""Stores the object that the API server returned for a write. The key names the resource that is reconciled."""


class NameTaken(Exception):
    """Raised when an object that a plan needs exists already and belongs to another owner."""


class Applier:
    """Executes plans.

    An object that was applied before and has not changed since is not applied again: a reconciliation without changes
    sends no request.

    Args:
        cluster: the connection to the API server.
        store: the watched objects.
        store_response: stores the object that a write has returned, so that its watch event changes nothing.
    """

    def __init__(self, cluster: Cluster, store: Store, store_response: StoreResponse):
        self._cluster = cluster
        self._store = store
        self._store_response = store_response
        self._applied: dict[Key, tuple[bytes, bytes | None]] = {}

    async def execute(self, owner: Key, owner_uid: str, plan: Plan) -> None:
        """Delete and apply the objects of a plan. Objects that create pods are applied last, when all others exist.

        Args:
            owner: the resource that the plan is for.
            owner_uid: its uid.
            plan: the plan.

        Raises:
            NameTaken: when an object exists already and belongs to another owner.
            Refused: when the API server rejects an object.
        """
        for deletion in plan.deletions:
            key = Key(deletion.kind.name, owner.namespace, deletion.name)
            if await self._cluster.delete(*key, deletion.uid, deletion.grace_seconds):
                _log_write(owner, "deleted", key, deletion.why)
            self._applied.pop(key, None)
        for makes_pods in (False, True):
            batch = [desired for desired in plan.desired if KINDS[desired.object["kind"]].makes_pods is makes_pods]
            writes = (self._ensure(owner, owner_uid, desired) for desired in batch)
            for error in await asyncio.gather(*writes, return_exceptions=True):
                if error is not None:
                    raise error

    async def write_status(self, obj: Json, status: Json) -> bool:
        """Write the status of a resource if it has changed; return whether it had.

        Raises:
            Conflict: when the object was deleted, and perhaps created again, in the meantime.
        """
        if obj.get("status", {}) == status:
            return False
        metadata = {name: obj["metadata"][name] for name in ("name", "namespace", "uid")}
        body = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "status": status}
        key = key_of(obj["kind"], obj)
        self._store_response(key, await self._cluster.apply(body, "status"))
        change = _describe_change(obj.get("status", {}), status)
        log.info("%s %s/%s: wrote the status: %s", *key, change, extra={"key": key})
        return True

    def forget(self, owner: Key) -> None:
        """Forget what was applied for a resource that has been deleted."""
        deleted = [
            key for key in self._applied if key.namespace == owner.namespace and self._store.version(key) is None
        ]
        for key in deleted:
            del self._applied[key]

    async def _ensure(self, owner: Key, owner_uid: str, desired: DesiredObject) -> None:
        await (self._create if desired.create_only else self._apply)(owner, owner_uid, desired)

    async def _create(self, owner: Key, owner_uid: str, desired: DesiredObject) -> None:
        key = key_of(desired.object["kind"], desired.object)
        stored = self._store.get(key)
        if stored is not None:
            _check_owner(key, stored, owner_uid)
            return
        if key in self._applied and not KINDS[key.kind].child:
            return  # a Secret, which the operator has created and may not read
        try:
            created = await self._cluster.create(desired.object)
        except Conflict:
            if KINDS[key.kind].child:
                existing = await self._cluster.get(key.kind, key.namespace, key.name)
                if existing is None:
                    raise NameTaken(f"{key.kind} {key.name} is being deleted") from None
                _check_owner(key, existing, owner_uid)
                self._store_response(owner, existing)
        else:
            _log_write(owner, "created", key, desired.why)
            if KINDS[key.kind].child:
                self._store_response(owner, created)
        if not KINDS[key.kind].child:
            self._applied[key] = (b"", None)

    async def _apply(self, owner: Key, owner_uid: str, desired: DesiredObject) -> None:
        key = key_of(desired.object["kind"], desired.object)
        digest = hashlib.sha256(json.dumps(desired.object, sort_keys=True).encode()).digest()
        exists, applied = self._store.version(key) is not None, self._applied.get(key)
        if exists and applied == (digest, self._store.fingerprint(key, desired.object)):
            return
        if KINDS[key.kind].child:
            # Server-side apply would take over an object of the same name that belongs to another owner.
            existing = self._store.get(key) or await self._cluster.get(key.kind, key.namespace, key.name)
            if existing is not None:
                _check_owner(key, existing, owner_uid)
        self._store_response(owner, await self._cluster.apply(desired.object))
        self._applied[key] = (digest, self._store.fingerprint(key, desired.object))
        _log_write(owner, _verb(exists, applied, digest), key, desired.why)


def _verb(exists: bool, applied: tuple[bytes, bytes | None] | None, digest: bytes) -> str:
    """Return what applying an object has done, as the log says it."""
    if not exists:
        return "created"
    if applied is None:
        return "applied (for the first time since the operator started)"
    return "updated" if applied[0] != digest else "restored (after changes by others)"


def _log_write(owner: Key, verb: str, key: Key, why: str) -> None:
    log.info("%s %s/%s: %s %s %s: %s", *owner, verb, key.kind, key.name, why, extra={"key": owner})


def _describe_change(before: Json, after: Json) -> str:
    """Return the conditions of a status that have changed, or else the names of the fields that have."""
    previous = {c["type"]: (c["status"], c["reason"]) for c in before.get("conditions", [])}
    changed = [
        f"{c['type']} is {c['status']} ({c['reason']})"
        for c in after.get("conditions", [])
        if previous.get(c["type"]) != (c["status"], c["reason"])
    ]
    fields = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return ", ".join(changed or fields)


def _check_owner(key: Key, obj: Json, owner_uid: str) -> None:
    owners = obj["metadata"].get("ownerReferences", [])
    if not any(owner["uid"] == owner_uid for owner in owners):
        actual = f"to {owners[0]['kind']} {owners[0]['name']}" if owners else "to no resource of the operator"
        raise NameTaken(f"{key.kind} {key.name} exists already and belongs {actual}")
