"""The world of a RewardFunction: its observed state, and that of the objects on which its plan depends."""

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
    """A ConfigMap that the operator has created for the function."""

    name: str
    uid: str


@dataclass(frozen=True)
class RewardFunctionWorld:
    """Everything on which the plan for a RewardFunction depends."""

    function: RewardFunction
    """The function itself."""
    sources: Mapping[str, Mapping[str, str]]
    """Data of the existing ConfigMaps with code of the function, by name."""
    deployment: DeploymentView | None
    """The Deployment of the reward server; None before it exists."""
    configurations: Sequence[ConfigMapName]
    """ConfigMaps of all versions of the function."""
    pods: Sequence[PodView]
    """Pods of all versions."""
    readiness: Mapping[str, Readiness]
    """Readiness of the pods that are running but not ready, by name."""
    new_token: str
    """A new random token, which is used when no Secret exists yet."""
    now: datetime
    """The current time."""
    endpoints: Mapping[str, InferenceEndpoint] = field(default_factory=dict)
    """The existing InferenceEndpoints that judge, by name."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What events say about late pods, by uid; see `pods.late`."""
    silent_seconds: float = 0.0
    """Seconds until the pods are asked again, when none of them answers; see `pods.silence`."""


def source_names(function: RewardFunction) -> list[str]:
    """Return the names of the ConfigMaps with code of the function."""
    sources = [grader.python.source_from for _, grader in function.spec.graders() if grader.python is not None]
    references = [source.config_map for source in sources if source is not None]
    return sorted({reference.name for reference in references if reference is not None})


def gather_reward_function(
    store: Store,
    key: Key,
    function: RewardFunction,
    sources: Mapping[str, Mapping[str, str]],
    readiness: Mapping[str, Readiness],
    new_token: str,
    now: datetime,
) -> RewardFunctionWorld:
    """Gather the world of a RewardFunction.

    Args:
        store: the watched objects.
        key: the key of the function.
        function: the function.
        sources: the data of the ConfigMaps with its code, by name.
        readiness: the readiness of pods that are not ready, by name.
        new_token: a new random token.
        now: the current time.
    """
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
    """Return the pods of a RewardFunction."""
    return [read_pod(pod, names.REWARD_SERVER) for pod in store.children(key, POD)]
