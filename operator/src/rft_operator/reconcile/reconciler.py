"""One pass over an object: observe everything once, plan, carry out, write the status, tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from rft_api.manifests import describe_invalid
from rft_api.model import Json
from rft_operator.kube.apply import Applier, NameTaken
from rft_operator.kube.cluster import Cluster, Conflict, Refused
from rft_operator.kube.kinds import EVENT, KINDS
from rft_operator.kube.names import FIELD_MANAGER
from rft_operator.kube.plan import Event, Plan
from rft_operator.kube.store import Key, key_of
from rft_operator.pods.probe import PodClient
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.problem import plan_problem
from rft_operator.reconcile.resource import Resource, Sources
from rft_operator.reconcile.routing import Router
from rft_operator.settings import Settings
from rft_operator.status.reasons import Reason

log = logging.getLogger(__name__)


class Reconciler:
    """Runs passes over the project's resources.

    Args:
        resources: those that are reconciled.
        cluster: the connection to the API server.
        pods: asks pods.
        router: holds the store, and says whom a write concerns.
        wake: has an object looked at.
        metrics: what is published.
        settings: the operator's.
    """

    def __init__(
        self,
        resources: Sequence[Resource[Any]],
        cluster: Cluster,
        pods: PodClient,
        router: Router,
        wake: Callable[[Key], None],
        metrics: Metrics,
        settings: Settings,
    ):
        self._resources = {resource.kind.name: resource for resource in resources}
        self._cluster = cluster
        self._store = router.store
        self._sources = Sources(router.store, cluster, pods)
        self._metrics = metrics
        self._settings = settings

        def take_answer(writer: Key, answer: Json) -> None:
            for key in router.take_answer(writer, answer):
                wake(key)

        self._applier = Applier(cluster, router.store, take_answer)

    async def reconcile(self, key: Key) -> float | None:
        """Brings one object to where it should be; returns after how many seconds to look again, if at all."""
        obj = self._store.get(key)
        if obj is None:
            self._metrics.drop(key)
            self._applier.forget(key)
            return None
        if "deletionTimestamp" in obj["metadata"]:
            return None  # Kubernetes deletes what hangs on it
        started, outcome = time.perf_counter(), "error"
        try:
            plan = await self._carry_out(key, obj)
            outcome = "done"
            return plan.requeue_seconds
        finally:
            seconds = time.perf_counter() - started
            self._metrics.reconcile_seconds.labels(key.kind, outcome).observe(seconds)

    async def _carry_out(self, key: Key, obj: Json) -> Plan:
        now = datetime.now(UTC)
        resource = self._resources[key.kind]
        try:
            plan = resource.plan(await resource.observe(self._sources, key, obj, now), self._settings)
            begins = self._begins(obj, plan)
            await self._applier.carry_out(key, obj["metadata"]["uid"], plan)
            if begins:
                # News of what was just made are about to come: the first status tells of both at once.
                return replace(plan, requeue_seconds=0)
        except ValidationError as error:
            plan = plan_problem(resource, obj, Reason.CONFIGURATION_INVALID, describe_invalid(obj, error), now)
        except NameTaken as taken:
            plan = plan_problem(resource, obj, Reason.NAME_TAKEN, str(taken), now)
        except Refused as refused:
            plan = plan_problem(resource, obj, Reason.CONFIGURATION_INVALID, str(refused), now)
        if await self._applier.write_status(obj, plan.status):
            for event in plan.events:
                await self._tell(obj, event, now)
        self._metrics.show(key, obj["spec"], plan.status)
        return plan

    def _begins(self, obj: Json, plan: Plan) -> bool:
        """Whether an object of which nothing was said yet is about to get what runs its pods."""
        return not obj.get("status") and any(
            KINDS[wanted.object["kind"]].makes_pods
            and self._store.version(key_of(wanted.object["kind"], wanted.object)) is None
            for wanted in plan.desired
        )

    async def _tell(self, obj: Json, event: Event, now: datetime) -> None:
        """Sends an event; one that cannot be sent is no reason to stop."""
        metadata = obj["metadata"]
        reference = {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}
        reference |= {name: metadata[name] for name in ("name", "namespace", "uid")}
        body = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"generateName": f"{metadata['name'][:50]}-", "namespace": metadata["namespace"]},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.message[:1000],
            "regarding": reference,
            "reportingController": "rft.dev/operator",
            "reportingInstance": FIELD_MANAGER,
        }
        try:
            await self._cluster.create(body)
        except (Refused, Conflict) as error:
            log.info("event %s of %s/%s: %s", event.reason, metadata["namespace"], metadata["name"], error)
