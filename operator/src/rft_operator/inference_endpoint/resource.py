"""The resource InferenceEndpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rft_api.conditions import ConditionType
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json
from rft_operator.inference_endpoint.metrics import collect_endpoints, sample_endpoint
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.probe import ask_servers, asked_pods
from rft_operator.inference_endpoint.references import find_base
from rft_operator.inference_endpoint.world import InferenceEndpointWorld, gather_inference_endpoint, server_pods
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.kube.store import Key
from rft_operator.pods.late import awaited_pods, late_uids, read_warnings
from rft_operator.reconcile.resource import ObjectMetrics, Resource, Sources
from rft_operator.status.conditions import is_true


async def _observe(sources: Sources, key: Key, obj: Json, now: datetime) -> InferenceEndpointWorld:
    endpoint = InferenceEndpoint.model_validate(obj)
    conditions = endpoint.status.conditions if endpoint.status is not None else []
    was_ready = is_true(conditions, ConditionType.READY, endpoint.metadata.generation)
    answers = await ask_servers(sources.pods, server_pods(sources.store, key, endpoint), endpoint, was_ready)
    world = gather_inference_endpoint(sources.store, key, endpoint, answers, now)
    late = late_uids(awaited_pods(world.own_pods), now)
    warnings = await read_warnings(sources.cluster, key.namespace, late)
    demand = await sources.gateways.demand(key) if endpoint.spec.autoscale is not None else None
    silent_seconds = sources.pods.seconds_of_silence(asked_pods(world.pods))
    return replace(world, demand=demand, warnings=warnings, silent_seconds=silent_seconds)


RESOURCE = Resource(
    kind=INFERENCE_ENDPOINT,
    observe=_observe,
    plan=plan_inference_endpoint,
    references=find_base,
    metric_prefix="rft_endpoint",
    metric_label="endpoint",
    metrics=ObjectMetrics(sample_endpoint, collect_endpoints),
    # The plan of a base lists its adapters, and the pods of the base serve the adapters.
    back_references=find_base,
    pods_affect_referrers=True,
)
