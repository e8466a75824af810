"""One pass over an object: observe everything once, plan, carry out, write the status, tell."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.resource import Condition
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.kube import names
from rft_operator.kube.apply import Applier, NameTaken
from rft_operator.kube.cluster import Cluster, Conflict, Refused
from rft_operator.kube.kinds import KINDS
from rft_operator.kube.plan import Event, Plan
from rft_operator.kube.store import Key, Store, key_of
from rft_operator.reconcile.metrics import Metrics
from rft_operator.reconcile.probes import Probes
from rft_operator.reconcile.problem import describe_invalid, plan_problem
from rft_operator.reconcile.routing import Wake
from rft_operator.reconcile.worlds import (
    gather_inference_endpoint,
    gather_reward_function,
    gather_rft_job,
    reward_pods,
    server_pods,
    trainer_pods,
)
from rft_operator.reward_function.plan import plan_reward_function, source_names
from rft_operator.rft_job.plan import plan_rft_job
from rft_operator.settings import Settings
from rft_operator.status.conditions import find_condition, is_true
from rft_operator.status.reasons import ConditionType, Reason

Json = dict[str, Any]
log = logging.getLogger(__name__)


class Passes:
    """Runs passes over the project's resources."""

    def __init__(
        self, cluster: Cluster, store: Store, probes: Probes, metrics: Metrics, settings: Settings, wake: Wake
    ):
        self._cluster = cluster
        self._store = store
        self._probes = probes
        self._metrics = metrics
        self._settings = settings
        self._applier = Applier(cluster, store, wake)

    async def run(self, key: Key) -> float | None:
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
        try:
            plan = await self._plan(key, obj, now)
            begins = self._begins(obj, plan)
            await self._applier.carry_out(key, obj["metadata"]["uid"], plan)
            if begins:
                # News of what was just made are about to come: the first status tells of both at once.
                return replace(plan, requeue_seconds=0)
        except ValidationError as error:
            plan = plan_problem(obj, Reason.CONFIGURATION_INVALID, describe_invalid(error), now)
        except NameTaken as taken:
            plan = plan_problem(obj, Reason.NAME_TAKEN, str(taken), now)
        except Refused as refused:
            plan = plan_problem(obj, Reason.CONFIGURATION_INVALID, str(refused), now)
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

    async def _plan(self, key: Key, obj: Json, now: datetime) -> Plan:
        match key.kind:
            case "RFTJob":
                job = RFTJob.model_validate(obj)
                ended = job.status is not None and _ended(job.status.conditions)
                progress = None if ended else await self._probes.ask_progress(trainer_pods(self._store, key))
                return plan_rft_job(gather_rft_job(self._store, key, job, progress, now), self._settings)
            case "RewardFunction":
                return await self._plan_reward_function(key, RewardFunction.model_validate(obj), now)
            case _:
                endpoint = InferenceEndpoint.model_validate(obj)
                known = is_true(
                    endpoint.status.conditions if endpoint.status is not None else [],
                    ConditionType.READY,
                    endpoint.metadata.generation,
                )
                pods = server_pods(self._store, key, endpoint)
                answers = await self._probes.ask_servers(pods, endpoint, known)
                world = gather_inference_endpoint(self._store, key, endpoint, answers, now)
                return plan_inference_endpoint(world, self._settings)

    async def _plan_reward_function(self, key: Key, function: RewardFunction, now: datetime) -> Plan:
        sources = {}
        for name in source_names(function):
            config_map = await self._cluster.get("ConfigMap", key.namespace, name)
            if config_map is not None:
                sources[name] = config_map.get("data", {})
        readiness = await self._probes.ask_readiness(reward_pods(self._store, key))
        token = secrets.token_urlsafe(32)
        world = gather_reward_function(self._store, key, function, sources, readiness, token, now)
        return plan_reward_function(world, self._settings)

    async def _tell(self, obj: Json, event: Event, now: datetime) -> None:
        """Sends an event; one that cannot be sent is no reason to stop."""
        metadata = obj["metadata"]
        reference = {"apiVersion": obj["apiVersion"], "kind": obj["kind"]}
        reference |= {name: metadata[name] for name in ("name", "namespace", "uid")}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name'][:50]}-", "namespace": metadata["namespace"]},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.message[:1000],
            "regarding": reference,
            "reportingController": "rft.dev/operator",
            "reportingInstance": names.FIELD_MANAGER,
        }
        try:
            await self._cluster.create(body)
        except (Refused, Conflict) as error:
            log.info("event %s of %s/%s: %s", event.reason, metadata["namespace"], metadata["name"], error)


def _ended(conditions: Sequence[Condition]) -> bool:
    succeeded = find_condition(conditions, ConditionType.SUCCEEDED)
    return succeeded is not None and succeeded.status != "Unknown"
