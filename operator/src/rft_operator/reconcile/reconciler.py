"""The reconciliation of one resource: observe, plan, execute the plan, write the status, send events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from rft_api.conditions import Reason
from rft_api.manifests import describe_invalid
from rft_api.model import Json
from rft_operator.kube.apply import Applier, NameTaken
from rft_operator.kube.cluster import Cluster, Conflict, Refused, Unavailable
from rft_operator.kube.kinds import EVENT, KINDS
from rft_operator.kube.names import FIELD_MANAGER
from rft_operator.kube.nodes import Nodes
from rft_operator.kube.plan import Event, Plan
from rft_operator.kube.store import Key, key_of
from rft_operator.pods.gateways import Gateways
from rft_operator.pods.probe import PodClient
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.problem import FAULT, FULL, plan_full_namespace, plan_problem
from rft_operator.reconcile.resource import Resource, Sources
from rft_operator.reconcile.routing import Router
from rft_operator.settings import Settings
from rft_operator.status.allowance import Allowance

log = logging.getLogger(__name__)


class _NamespaceFull(Exception):
    """Objects of the namespace are left out of the store, so nothing in it can be planned."""


class Reconciler:
    """Reconciles the resources of the project.

    Args:
        resources: the resources.
        cluster: the connection to the API server.
        pods: the client that asks pods.
        gateways: the client that asks gateways.
        router: stores the objects that writes return, and finds the resources that they affect.
        enqueue: has a resource reconciled.
        metrics: the published metrics.
        settings: the settings of the operator.
    """

    def __init__(
        self,
        resources: Sequence[Resource[Any]],
        cluster: Cluster,
        pods: PodClient,
        gateways: Gateways,
        router: Router,
        enqueue: Callable[[Key], None],
        metrics: Metrics,
        settings: Settings,
    ):
        self._resources = {resource.kind.name: resource for resource in resources}
        self._cluster = cluster
        self._store = router.store
        self._sources = Sources(router.store, cluster, Nodes(cluster), pods, gateways)
        self._metrics = metrics
        self._settings = settings

        def store_response(writer: Key, response: Json) -> None:
            for key in router.store_response(writer, response):
                enqueue(key)

        # The limits of Kubernetes' own controllers (client-go, tools/record, EventSourceObjectSpamFilter).
        self._events = Allowance(25, seconds=300)
        self._applier = Applier(cluster, router.store, store_response)

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile one resource; return the seconds until the next reconciliation, or None to wait for a change."""
        obj = self._store.get(key)
        if obj is None and (uid := self._store.left_out(key)) is not None:
            await self._tell_of_full_namespace(key, uid)
            return None  # it comes again when the objects are listed
        if obj is None:
            self._metrics.remove(key)
            self._applier.forget(key)
            return None
        if "deletionTimestamp" in obj["metadata"]:
            return None  # Kubernetes deletes its children
        start, outcome = time.perf_counter(), "error"
        try:
            plan = await self._reconcile(key, obj)
            outcome = "done"
            return plan.requeue_seconds
        except (Conflict, Unavailable):
            raise  # that is no fault of the operator
        except Exception:
            now = datetime.now(UTC)
            obj = self._store.get(key) or obj  # its status may have been written before the fault
            plan = plan_problem(self._resources[key.kind], obj, Reason.OPERATOR_FAILING, FAULT, now)
            with suppress(Conflict, Unavailable, Refused):  # the next attempt says it
                await self._report(key, obj, plan, now)
            raise
        finally:
            seconds = time.perf_counter() - start
            self._metrics.reconcile_seconds.labels(key.kind, outcome).observe(seconds)

    async def _reconcile(self, key: Key, obj: Json) -> Plan:
        now = datetime.now(UTC)
        resource = self._resources[key.kind]
        try:
            if self._store.is_full(key.namespace):
                raise _NamespaceFull
            plan = resource.plan(await resource.observe(self._sources, key, obj, now), self._settings)
            starts_pods = self._starts_pods(obj, plan)
            await self._applier.execute(key, obj["metadata"]["uid"], plan)
            if starts_pods:
                # The state of the new pods is about to arrive: the first status then reports both in one write.
                return replace(plan, requeue_seconds=0)
        except ValidationError as error:
            plan = plan_problem(resource, obj, Reason.CONFIGURATION_INVALID, describe_invalid(obj, error), now)
        except _NamespaceFull:
            plan = plan_full_namespace(resource, obj, now)
        except NameTaken as error:
            plan = plan_problem(resource, obj, Reason.NAME_TAKEN, str(error), now)
        except Refused as error:
            plan = plan_problem(resource, obj, Reason.CONFIGURATION_INVALID, str(error), now)
        await self._report(key, obj, plan, now)
        return plan

    async def _report(self, key: Key, obj: Json, plan: Plan, now: datetime) -> None:
        """Write the status of a plan, send its events, and publish its metrics."""
        if await self._applier.write_status(obj, plan.status):
            for event in plan.events:
                if self._events.take(obj["metadata"]["uid"], time.monotonic()) is not None:
                    await self._send_event(obj, event, now)
        self._metrics.update(key, obj["spec"], plan.status)

    def _starts_pods(self, obj: Json, plan: Plan) -> bool:
        """Return whether the plan creates the first pods of a resource that has no status yet."""
        return not obj.get("status") and any(
            KINDS[desired.object["kind"]].makes_pods
            and self._store.version(key_of(desired.object["kind"], desired.object)) is None
            for desired in plan.desired
        )

    async def _tell_of_full_namespace(self, key: Key, uid: str) -> None:
        """Send an event about an object that is not stored, so that its status cannot be written."""
        if self._events.take(uid, time.monotonic()) is None:
            return
        metadata = {"name": key.name, "namespace": key.namespace, "uid": uid}
        obj = {"apiVersion": KINDS[key.kind].api_version, "kind": key.kind, "metadata": metadata}
        await self._send_event(obj, Event("Warning", Reason.NAMESPACE_FULL, FULL), datetime.now(UTC))

    async def _send_event(self, obj: Json, event: Event, now: datetime) -> None:
        """Send an event; an event that the API server rejects is only logged."""
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
            key = key_of(obj["kind"], obj)
            log.info("%s %s/%s: event %s: %s", *key, event.reason, error, extra={"key": key})
