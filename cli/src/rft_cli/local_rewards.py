"""Find out why a RewardFunction whose manifest is right cannot be served on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rft_api.manifests import ManifestError, Manifests
from rft_api.model import Violation
from rft_api.remote_graders import models
from rft_api.reward_environment import environment_problems
from rft_api.reward_function import RewardFunction


def local_reward_errors(manifests: Manifests, function: RewardFunction) -> Iterator[ManifestError]:
    """Yield an error for each part that only a cluster has, and for each credential or file that this machine lacks."""
    origin = manifests.origins[function.kind, function.metadata.name]
    for violation in [*_endpoint_violations(function), *environment_problems(function.spec, os.environ)]:
        yield origin.error(violation)


def _endpoint_violations(function: RewardFunction) -> Iterator[Violation]:
    for location, grader in function.spec.graders():
        for fields, model in models(grader):
            if model.endpoint is not None:
                message = (
                    "an InferenceEndpoint lives in a cluster; on this machine, set url and name of a model instead"
                )
                yield Violation(message, (*location, *fields, "endpoint"))
