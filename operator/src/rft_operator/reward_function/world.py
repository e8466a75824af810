"""What is observed of a RewardFunction and of what it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.readiness import Readiness
from rft_api.remote_graders import judge_endpoints
from rft_api.reward_function import RewardFunction
from rft_operator.kube.kinds import CONFIG_MAP, DEPLOYMENT, INFERENCE_ENDPOINT, POD
from rft_operator.kube.store import Key, Store
from rft_operator.pods.deployment_view import DeploymentView, read_deployment
from rft_operator.pods.pod_view import PodView, read_pod
from rft_operator.reward_function import names


@dataclass(frozen=True)
class ConfigMapName:
    """A ConfigMap of this function's."""

    name: str
    uid: str


@dataclass(frozen=True)
class RewardFunctionWorld:
    """Everything that planning a RewardFunction looks at."""

    function: RewardFunction
    sources: Mapping[str, Mapping[str, str]]
    """Data of the ConfigMaps that the function reads code from, as far as they exist."""
    deployment: DeploymentView | None
    configurations: Sequence[ConfigMapName]
    """ConfigMaps that were made for this function, of whichever code."""
    pods: Sequence[PodView]
    readiness: Mapping[str, Readiness]
    """What pods that run but are not ready answer when asked for the reason, by pod name."""
    new_token: str
    """A fresh token, for when there is no Secret yet."""
    now: datetime
    endpoints: Mapping[str, InferenceEndpoint] = field(default_factory=dict)
    """The InferenceEndpoints that judge, by name, as far as they exist."""


def source_names(function: RewardFunction) -> list[str]:
    """ConfigMaps that the function reads code from."""
    sources = [grader.python.source_from for _, grader in function.spec.graders() if grader.python is not None]
    return sorted({source.config_map.name for source in sources if source is not None})


def gather_reward_function(
    store: Store,
    key: Key,
    function: RewardFunction,
    sources: Mapping[str, Mapping[str, str]],
    readiness: Mapping[str, Readiness],
    new_token: str,
    now: datetime,
) -> RewardFunctionWorld:
    """The world of a RewardFunction."""
    uid = function.metadata.uid or ""
    deployments = store.children(key, DEPLOYMENT, uid)
    judges = [
        (name, store.read(InferenceEndpoint, Key(INFERENCE_ENDPOINT.name, key.namespace, name)))
        for name in judge_endpoints(function.spec)
    ]
    return RewardFunctionWorld(
        function=function,
        sources=sources,
        deployment=read_deployment(deployments[0]) if deployments else None,
        configurations=[
            ConfigMapName(config_map["metadata"]["name"], config_map["metadata"]["uid"])
            for config_map in store.children(key, CONFIG_MAP, uid)
        ],
        pods=reward_pods(store, key),
        readiness=readiness,
        endpoints={name: judge for name, judge in judges if judge is not None},
        new_token=new_token,
        now=now,
    )


def reward_pods(store: Store, key: Key) -> list[PodView]:
    """Pods of a RewardFunction."""
    return [read_pod(pod, names.REWARD_SERVER) for pod in store.children(key, POD)]
