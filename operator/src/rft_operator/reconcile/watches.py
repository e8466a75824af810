"""The kopf handlers: they put what the watches bring into the store and wake whose plan may change by it.

There are only event handlers: those leave no finalizer and no annotation on any object, so that nothing is ever stuck
for want of the operator.
"""

from __future__ import annotations

from typing import Any

import kopf

from rft_operator.kube.cluster import PAGE
from rft_operator.kube.kinds import WATCHED, Kind
from rft_operator.reconcile.loop import Loop
from rft_operator.reconcile.routing import Router

WATCH_SECONDS = 300
"""Length of one watch request; an endless one may die without a word. Whole: kopf sends it as it is."""
BACKOFFS = (0.5, 1, *[2] * 30)
"""Pauses in seconds before a watch is tried again; after the last, the operator ends and Kubernetes starts it again."""


class _NoLastState(kopf.DiffBaseStorage):
    """Nobody asks what has changed; to find out, kopf would copy every object several times."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Event handlers make none."""

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
    """Handlers for everything that is watched."""
    registry = kopf.OperatorRegistry()

    def register(kind: Kind) -> None:
        @kopf.on.event(
            group=kind.group, version=kind.version, plural=kind.plural, id=f"watch-{kind.plural}", registry=registry
        )
        async def watch(event: Any, **_: Any) -> None:
            for key in router.take_event(kind.name, event["type"], event["object"]):
                loop.wake(key)

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    for kind in WATCHED:
        register(kind)
    return registry


def build_settings() -> kopf.OperatorSettings:
    """Settings that avoid kopf's known freezes, and have it write nothing by itself."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 30
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = PAGE
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = BACKOFFS
    settings.queueing.worker_limit = None
    # There is a task of kopf's per object that holds its last event for as long as it waits for another.
    settings.queueing.idle_timeout = 0.1
    settings.persistence.diffbase_storage = _NoLastState()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.peering.standalone = True
    # Resources are those that are there at the start; no permissions on CRDs and namespaces are needed.
    settings.scanning.disabled = True
    for kind in WATCHED:
        if kind.selector is not None:
            settings.watching.label_selectors[kind.api_version, kind.plural] = kind.selector
    return settings
