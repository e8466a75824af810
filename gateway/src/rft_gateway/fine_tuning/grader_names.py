"""Checks that what a grader names is in the namespace: a RewardFunction, or the models that it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.defaults import Defaults
from rft_gateway.fine_tuning.graders import asked_models, endpoint_name, no_model
from rft_gateway.fine_tuning.request import FunctionGrader, Grader
from rft_gateway.keys import Key, opens

if TYPE_CHECKING:  # the client of Kubernetes takes a second to import, which is for nothing on one machine
    from rft_gateway.fine_tuning.store import ClusterJobs


async def check_names(grader: Grader, path: str, key: Key, defaults: Defaults, store: ClusterJobs) -> None:
    """Check the names that a grader has.

    Args:
        grader: the grader.
        path: its place in the request.
        key: the key of whoever asks. Models that the namespace gives its graders are everybody's there.
        defaults: what the namespace gives its graders.
        store: where the objects are.

    Raises:
        ApiError: 400 when one does not exist, or is a model that the key does not open.
    """
    if isinstance(grader, FunctionGrader) and not await store.has_function(key.namespace, grader.name):
        param = f"{path}.name"
        message = f"{param}: there is no RewardFunction {grader.name} in namespace {key.namespace}"
        raise ApiError(400, message, param=param, code="reward_function_not_found")
    for param, name in asked_models(grader, path):
        if name in defaults.graders.models:
            continue
        if not opens(key, name) or not await store.has_endpoint(key.namespace, endpoint_name(name, param)):
            raise no_model(name, param)
