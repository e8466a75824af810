"""Carries plans out: deletes, creates and applies what a plan says, and writes the status if it changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable

from rft_api.model import Json
from rft_operator.kube.cluster import Cluster, Conflict
from rft_operator.kube.kinds import KINDS
from rft_operator.kube.plan import Desired, Plan
from rft_operator.kube.store import Key, Store, key_of

log = logging.getLogger(__name__)

TakeAnswer = Callable[[Key, Json], None]
"""Takes over what the API server answered to a write; the key is that of the object for which was written."""


class NameTaken(Exception):
    """An object that is needed exists already and belongs to something else."""


class Applier:
    """Brings the cluster to where plans want it.

    What is applied already and unchanged since is left alone, so that a pass that changes nothing sends nothing.

    Args:
        cluster: the connection.
        store: what the watches have brought.
        take_answer: puts what was written into the store; its watch event will be no news.
    """

    def __init__(self, cluster: Cluster, store: Store, take_answer: TakeAnswer):
        self._cluster = cluster
        self._store = store
        self._take_answer = take_answer
        self._applied: dict[Key, tuple[bytes, bytes | None]] = {}

    async def carry_out(self, owner: Key, owner_uid: str, plan: Plan) -> None:
        """Deletes and applies the objects of a plan; what runs pods comes last, when all that they need is there.

        Raises:
            NameTaken: when an object of that name belongs to something else.
            Refused: when the API server finds an object wrong.
        """
        for deletion in plan.deletions:
            key = Key(deletion.kind.name, owner.namespace, deletion.name)
            if await self._cluster.delete(*key, deletion.uid):
                _log_write(owner, "deleted", key, deletion.why)
            self._applied.pop(key, None)
        for runs_pods in (False, True):
            objects = [wanted for wanted in plan.desired if KINDS[wanted.object["kind"]].makes_pods is runs_pods]
            done = await asyncio.gather(*(self._bring(owner, owner_uid, o) for o in objects), return_exceptions=True)
            for problem in done:
                if problem is not None:
                    raise problem

    async def write_status(self, obj: Json, status: Json) -> bool:
        """Writes the status of an object of ours; whether it had to.

        Raises:
            Conflict: when the object was deleted and made anew meanwhile.
        """
        if obj.get("status", {}) == status:
            return False
        metadata = {name: obj["metadata"][name] for name in ("name", "namespace", "uid")}
        body = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "status": status}
        key = key_of(obj["kind"], obj)
        self._take_answer(key, await self._cluster.apply(body, "status"))
        log.info("%s %s/%s: wrote the status: %s", *key, _describe_change(obj.get("status", {}), status))
        return True

    def forget(self, owner: Key) -> None:
        """Drops what is remembered of the children of an object that is gone."""
        gone = [key for key in self._applied if key.namespace == owner.namespace and self._store.version(key) is None]
        for key in gone:
            del self._applied[key]

    async def _bring(self, owner: Key, owner_uid: str, wanted: Desired) -> None:
        await (self._create if wanted.once else self._apply)(owner, owner_uid, wanted)

    async def _create(self, owner: Key, owner_uid: str, wanted: Desired) -> None:
        key = key_of(wanted.object["kind"], wanted.object)
        held = self._store.get(key)
        if held is not None:
            _check_owner(key, held, owner_uid)
            return
        if key in self._applied and not KINDS[key.kind].child:
            return  # a Secret: made before, and never read
        try:
            made = await self._cluster.create(wanted.object)
        except Conflict:
            if KINDS[key.kind].child:
                existing = await self._cluster.get(key.kind, key.namespace, key.name)
                if existing is None:
                    raise NameTaken(f"{key.kind} {key.name} is just being deleted") from None
                _check_owner(key, existing, owner_uid)
                self._take_answer(owner, existing)
        else:
            _log_write(owner, "created", key, wanted.why)
            if KINDS[key.kind].child:
                self._take_answer(owner, made)
        if not KINDS[key.kind].child:
            self._applied[key] = (b"", None)

    async def _apply(self, owner: Key, owner_uid: str, wanted: Desired) -> None:
        key = key_of(wanted.object["kind"], wanted.object)
        digest = hashlib.sha256(json.dumps(wanted.object, sort_keys=True).encode()).digest()
        there, applied = self._store.version(key) is not None, self._applied.get(key)
        if there and applied == (digest, self._store.fingerprint(key)):
            return
        if KINDS[key.kind].child:
            # Applying would take over an object of the same name that belongs to somebody else.
            existing = self._store.get(key) or await self._cluster.get(key.kind, key.namespace, key.name)
            if existing is not None:
                _check_owner(key, existing, owner_uid)
        self._take_answer(owner, await self._cluster.apply(wanted.object))
        self._applied[key] = (digest, self._store.fingerprint(key))
        _log_write(owner, _verb(there, applied, digest), key, wanted.why)


def _verb(there: bool, applied: tuple[bytes, bytes | None] | None, digest: bytes) -> str:
    """What applying an object did, from what was there and what was applied before."""
    if not there:
        return "created"
    if applied is None:
        return "applied, for the first time since the operator started,"
    return "updated" if applied[0] != digest else "restored what somebody else changed of"


def _log_write(owner: Key, verb: str, key: Key, why: str) -> None:
    log.info("%s %s/%s: %s %s %s: %s", *owner, verb, key.kind, key.name, why)


def _describe_change(before: Json, after: Json) -> str:
    """What is new in a status: the conditions that have changed, or else the names of the fields that have."""
    known = {c["type"]: (c["status"], c["reason"]) for c in before.get("conditions", [])}
    changed = [
        f"{c['type']} is {c['status']} ({c['reason']})"
        for c in after.get("conditions", [])
        if known.get(c["type"]) != (c["status"], c["reason"])
    ]
    fields = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return ", ".join(changed or fields)


def _check_owner(key: Key, obj: Json, owner_uid: str) -> None:
    owners = obj["metadata"].get("ownerReferences", [])
    if not any(owner["uid"] == owner_uid for owner in owners):
        whose = f"{owners[0]['kind']} {owners[0]['name']}" if owners else "nothing that the operator made"
        raise NameTaken(f"{key.kind} {key.name} exists already and belongs to {whose}")
