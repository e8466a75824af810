"""Gathers the world of one object from the store: what its plan looks at, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.progress import Progress
from rft_api.remote_graders import judge_endpoints
from rft_api.render import reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_operator.inference_endpoint.plan import InferenceEndpointWorld, ServerAnswer
from rft_operator.kube import names
from rft_operator.kube.store import Key, Store
from rft_operator.pods.deployment_view import read_deployment
from rft_operator.pods.pod_view import PodView, read_pod
from rft_operator.reward_function.plan import ConfigMapName, RewardFunctionWorld
from rft_operator.rft_job.attempts import read_attempt
from rft_operator.rft_job.endpoint import base_endpoint_name
from rft_operator.rft_job.world import RFTJobWorld, read_run_configuration

Json = dict[str, Any]
R = TypeVar("R", RFTJob, RewardFunction, InferenceEndpoint)


def gather_rft_job(store: Store, key: Key, job: RFTJob, progress: Progress | None, now: datetime) -> RFTJobWorld:
    """The world of an RFTJob."""
    uid = job.metadata.uid or ""
    configurations = [
        found
        for config_map in _owned(store.children(key, "ConfigMap"), uid)
        if (found := read_run_configuration(config_map)) is not None
    ]
    configuration = configurations[0] if configurations else None
    # A run that has started goes on with the rewards that it started with, whatever the spec says now.
    started_with = configuration.reward_digests if configuration is not None else {}
    functions = {}
    for target in sorted({*reward_names(job), *started_with}):
        function = _parsed(store, RewardFunction, Key("RewardFunction", key.namespace, target))
        if function is not None:
            functions[target] = function
    endpoint_names = {job.spec.endpoint.name, base_endpoint_name(job)} if job.spec.endpoint is not None else set()
    endpoints = {}
    for name in endpoint_names - {None}:
        endpoint = _parsed(store, InferenceEndpoint, Key("InferenceEndpoint", key.namespace, name or ""))
        if endpoint is not None:
            endpoints[endpoint.metadata.name] = endpoint
    attempts = [read_attempt(child) for child in _owned(store.children(key, "Job"), uid)]
    return RFTJobWorld(
        job=job,
        reward_functions=functions,
        configuration=configuration,
        attempts=sorted(attempts, key=lambda attempt: attempt.number),
        pods=trainer_pods(store, key),
        progress=progress,
        endpoints=endpoints,
        sharing_jobs=_sharing_jobs(store, key, job),
        now=now,
    )


def gather_reward_function(
    store: Store,
    key: Key,
    function: RewardFunction,
    sources: Mapping[str, Mapping[str, str]],
    readiness: Mapping[str, str],
    new_token: str,
    now: datetime,
) -> RewardFunctionWorld:
    """The world of a RewardFunction."""
    uid = function.metadata.uid or ""
    deployments = _owned(store.children(key, "Deployment"), uid)
    judges = [
        (name, _parsed(store, InferenceEndpoint, Key("InferenceEndpoint", key.namespace, name)))
        for name in judge_endpoints(function.spec)
    ]
    return RewardFunctionWorld(
        function=function,
        sources=sources,
        deployment=read_deployment(deployments[0]) if deployments else None,
        configurations=[
            ConfigMapName(config_map["metadata"]["name"], config_map["metadata"]["uid"])
            for config_map in _owned(store.children(key, "ConfigMap"), uid)
        ],
        pods=reward_pods(store, key),
        readiness=readiness,
        endpoints={name: judge for name, judge in judges if judge is not None},
        new_token=new_token,
        now=now,
    )


def gather_inference_endpoint(
    store: Store, key: Key, endpoint: InferenceEndpoint, answers: Mapping[str, ServerAnswer], now: datetime
) -> InferenceEndpointWorld:
    """The world of an InferenceEndpoint."""
    deployments = _owned(store.children(key, "Deployment"), endpoint.metadata.uid or "")
    base_name = endpoint.spec.base_endpoint
    base = None
    if base_name is not None:
        base = _parsed(store, InferenceEndpoint, Key("InferenceEndpoint", key.namespace, base_name))
    adapters = [
        adapter
        for other in store.referring(key)
        if other.kind == "InferenceEndpoint" and (adapter := _parsed(store, InferenceEndpoint, other)) is not None
    ]
    return InferenceEndpointWorld(
        endpoint=endpoint,
        base=base,
        adapters=adapters,
        deployment=read_deployment(deployments[0]) if deployments else None,
        pods=server_pods(store, key, endpoint),
        answers=answers,
        now=now,
    )


def trainer_pods(store: Store, key: Key) -> list[PodView]:
    """Pods of an RFTJob, of every attempt."""
    return [read_pod(pod, names.TRAINER) for pod in store.children(key, "Pod")]


def reward_pods(store: Store, key: Key) -> list[PodView]:
    """Pods of a RewardFunction."""
    return [read_pod(pod, names.REWARD) for pod in store.children(key, "Pod")]


def server_pods(store: Store, key: Key, endpoint: InferenceEndpoint) -> list[PodView]:
    """Pods of the server that serves an endpoint: its own, or its base's."""
    owner = key._replace(name=endpoint.spec.base_endpoint or key.name)
    return [read_pod(pod, names.SERVER) for pod in store.children(owner, "Pod")]


def _owned(objects: Sequence[Json], uid: str) -> list[Json]:
    """Those that hang on the object with this uid, not on one that had its name before."""
    return [o for o in objects if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences", []))]


def _sharing_jobs(store: Store, key: Key, job: RFTJob) -> list[RFTJob]:
    base = base_endpoint_name(job)
    if base is None:
        return []
    others = [
        other
        for target in store.referring(Key("InferenceEndpoint", key.namespace, base))
        if target.kind == "RFTJob" and target != key and (other := _parsed(store, RFTJob, target)) is not None
    ]
    return [job, *(other for other in others if base_endpoint_name(other) == base)]


def _parsed(store: Store, model: type[R], key: Key) -> R | None:
    found = store.get(key)
    if found is None:
        return None
    try:
        return model.model_validate(found)
    except ValidationError:
        return None
