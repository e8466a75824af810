"""The watches: kopf's event handlers store each object, and enqueue the resources that the change affects.

Only event handlers are used. They leave neither finalizers nor annotations on objects, so that every object can be
deleted while the operator is away.
"""

from __future__ import annotations

from typing import Any

import kopf

from rft_operator.kube.kinds import WATCHED, Kind
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.routing import Router

WATCH_SECONDS = 300
"""Seconds that one watch request lasts, as an integer; an endless request may break without an error."""
CHUNK_OBJECTS = 5
"""Objects that kopf lists at once, which it cannot limit by bytes: a large object may take 40 MB when it is parsed."""
BACKOFFS = (0.5, 1, *[2] * 30)
"""Seconds before a failed watch is started again. After the last, the operator ends, and Kubernetes restarts it."""


class _NoLastState(kopf.DiffBaseStorage):
    """Stores no state of objects: event handlers do not need it, and kopf would copy every object several times."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Stores no progress of handlers: event handlers have none."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def build_registry(router: Router, loop: Loop) -> kopf.OperatorRegistry:
    """Build the registry with a handler for each watched kind."""
    registry = kopf.OperatorRegistry()

    def register(kind: Kind) -> None:
        @kopf.on.event(
            group=kind.group, version=kind.version, plural=kind.plural, id=f"watch-{kind.plural}", registry=registry
        )
        async def watch(event: Any, **_: Any) -> None:
            for key in router.store_event(kind.name, event["type"], event["object"]):
                loop.enqueue(key)

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    for kind in WATCHED:
        register(kind)
    return registry


def build_settings() -> kopf.OperatorSettings:
    """Build kopf's settings: watches that cannot freeze, and no writes by kopf itself."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = CHUNK_OBJECTS
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = BACKOFFS
    settings.queueing.worker_limit = None
    # kopf keeps a task for each object, with its last event, until this time has passed without another event.
    settings.queueing.idle_timeout = 0.1
    settings.persistence.diffbase_storage = _NoLastState()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # kopf then needs no permissions on CRDs and namespaces; our resources exist when it starts.
    settings.scanning.disabled = True
    for kind in WATCHED:
        if kind.selector is not None:
            settings.watching.label_selectors[kind.api_version, kind.plural] = kind.selector
    return settings
