"""Find objects that are late: Jobs without their pods, and pods without their containers. Events say what is wrong.

A quota, an admission plugin or a volume that cannot be mounted leaves no trace in the status of the object that waits.
Kubernetes only sends events, which it keeps for an hour. They are not watched, because there are many. They are read
about late objects, and the longer such an object is late, the less often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rft_api.conditions import Reason
from rft_api.model import Json
from rft_operator.kube.cluster import Cluster, Unavailable
from rft_operator.kube.timestamps import parse_timestamp
from rft_operator.pods.pod_view import PodView

log = logging.getLogger(__name__)

LATE_SECONDS = 20.0
"""Seconds after which an object is late."""
LONGEST_WAIT_SECONDS = 300.0
"""Longest time between two looks at the events about a late object."""


@dataclass(frozen=True)
class Awaited:
    """An object that waits for its pods, or for its containers, without a reason in its status."""

    uid: str
    since: datetime
    """When it began to wait."""


def awaited_pods(pods: Iterable[PodView]) -> list[Awaited]:
    """Return the pods in which no container has started, although nothing in their status prevents it."""
    return [
        Awaited(pod.uid, since)
        for pod in pods
        if pod.phase == "Pending" and not (pod.started or pod.deleting or pod.problem)
        if (since := pod.start_time or pod.created_at) is not None
    ]


def late_uids(awaited: Iterable[Awaited], now: datetime) -> list[str]:
    """Return the uids of the objects that are late."""
    return [item.uid for item in awaited if _waited(item, now) >= LATE_SECONDS]


def seconds_to_look(awaited: Iterable[Awaited], now: datetime) -> float | None:
    """Return the seconds until an object is late, or until its events are read again; None when none is awaited.

    The events are read after 20, 40, 80, 160 and 320 seconds, and then every 5 minutes.
    """
    waits = [
        LATE_SECONDS - waited if waited < LATE_SECONDS else min(waited, LONGEST_WAIT_SECONDS)
        for waited in (_waited(item, now) for item in awaited)
    ]
    return min(waits, default=None)


def _waited(item: Awaited, now: datetime) -> float:
    return (now - item.since).total_seconds()


def blocked_pod(pods: Sequence[PodView], warnings: Mapping[str, str]) -> tuple[Reason, str] | None:
    """Return why the containers of the first late pod, by name, do not start; None when no event says why.

    Args:
        pods: the pods.
        warnings: what events say about late objects, by uid.
    """
    late = (pod for pod in sorted(pods, key=lambda pod: pod.name) if pod.uid in warnings)
    return next(((Reason.CONTAINER_BLOCKED, f"pod {pod.name}: {warnings[pod.uid]}") for pod in late), None)


async def read_warnings(cluster: Cluster, namespace: str, uids: Sequence[str]) -> dict[str, str]:
    """Return what the events about objects say, by uid; objects without a warning are left out.

    Events that cannot be read are not an error: what the object itself says is planned without them.
    """
    try:
        events = await asyncio.gather(*(cluster.events(namespace, uid) for uid in uids))
    except Unavailable as error:
        log.warning("the events of namespace %s cannot be read: %s", namespace, error)
        return {}
    texts = {uid: newest_warning(about) for uid, about in zip(uids, events, strict=True)}
    return {uid: text for uid, text in texts.items() if text is not None}


def newest_warning(events: Iterable[Json]) -> str | None:
    """Return the newest warning among the events about one object; None when what it is about is past.

    A later event of the same controller, such as that an image is being pulled after a volume could not be mounted,
    says that the warning is past. At the same second a warning counts less, because timestamps have whole seconds.
    """
    newest: dict[str, Json] = {}
    for event in events:
        controller = event.get("reportingController") or event.get("deprecatedSource", {}).get("component", "")
        if controller not in newest or _order(event) >= _order(newest[controller]):
            newest[controller] = event
    warnings = [event for event in newest.values() if event.get("type") == "Warning"]
    if not warnings:
        return None
    event = max(warnings, key=_order)
    return f"{event.get('reason', '')}: {event.get('note', '')}"


def _order(event: Json) -> tuple[datetime, bool]:
    """Return what events are ordered by. Controllers still send events in both of the forms that Kubernetes has."""
    time = (
        (event.get("series") or {}).get("lastObservedTime")
        or event.get("deprecatedLastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
    return parse_timestamp(time) or datetime.min.replace(tzinfo=UTC), event.get("type") != "Warning"
