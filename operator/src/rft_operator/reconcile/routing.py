"""Whom a change concerns: whose plan has to be made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rft_operator.kube.kinds import KINDS
from rft_operator.kube.store import Key, Store, key_of, owner_of

Json = dict[str, Any]
Wake = Callable[[Key], None]


def take_event(store: Store, wake: Wake, kind: str, type_: str | None, obj: Json) -> None:
    """Takes over one event of a watch, and wakes whom it concerns if it was news."""
    if type_ == "DELETED":
        keys = concerned(store, kind, obj)
        store.remove(kind, obj)
    else:
        keys = concerned(store, kind, obj) if store.put(kind, obj) else []
    for key in keys:
        wake(key)


def take_answer(store: Store, wake: Wake, writer: Key, kind: str, obj: Json) -> None:
    """Takes over what the API server answered to a write; its watch event will be no news.

    Whom it concerns is woken, but for the writer, who knows.
    """
    if store.put(kind, obj):
        for key in concerned(store, kind, obj):
            if key != writer:
                wake(key)


def concerned(store: Store, kind: str, obj: Json) -> list[Key]:
    """Objects of ours whose plans look at this one."""
    key = key_of(kind, obj)
    if not KINDS[kind].ours:
        owner = owner_of(obj)
        if owner is None:
            return []
        # An adapter's plan looks at the pods of its base's server.
        adapters = store.referring(owner) if owner.kind == "InferenceEndpoint" and kind == "Pod" else []
        return [owner, *adapters]
    base = obj.get("spec", {}).get("baseEndpoint") if kind == "InferenceEndpoint" else None
    return [key, *store.referring(key), *([key._replace(name=base)] if base else [])]
