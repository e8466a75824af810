"""The resource RewardFunction."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime

from rft_api.model import Json
from rft_api.reward_function import RewardFunction
from rft_operator.kube.kinds import CONFIG_MAP, REWARD_FUNCTION
from rft_operator.kube.store import Key
from rft_operator.pods.late import awaited_pods, late_uids, read_warnings
from rft_operator.reconcile.resource import Resource, Sources
from rft_operator.reward_function.plan import plan_reward_function
from rft_operator.reward_function.probe import ask_readiness, asked_pods
from rft_operator.reward_function.references import find_references
from rft_operator.reward_function.world import (
    RewardFunctionWorld,
    gather_reward_function,
    reward_pods,
    source_names,
)


async def _observe(sources: Sources, key: Key, obj: Json, now: datetime) -> RewardFunctionWorld:
    function = RewardFunction.model_validate(obj)
    code = {}
    for name in source_names(function):
        config_map = await sources.cluster.get(CONFIG_MAP.name, key.namespace, name)
        if config_map is not None:
            code[name] = config_map.get("data", {})
    readiness = await ask_readiness(sources.pods, reward_pods(sources.store, key))
    world = gather_reward_function(sources.store, key, function, code, readiness, secrets.token_urlsafe(32), now)
    late = late_uids(awaited_pods(world.pods), now)
    warnings = await read_warnings(sources.cluster, key.namespace, late)
    return replace(world, warnings=warnings, silent_seconds=sources.pods.seconds_of_silence(asked_pods(world.pods)))


RESOURCE = Resource(
    kind=REWARD_FUNCTION,
    observe=_observe,
    plan=plan_reward_function,
    references=find_references,
    metric_prefix="rft_reward_function",
    metric_label="reward_function",
)
