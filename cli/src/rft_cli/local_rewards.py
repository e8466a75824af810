"""What keeps a reward function from being served on this machine, though its manifest is right."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rft_api.manifests import ManifestError, Manifests
from rft_api.model import Violation
from rft_api.remote_graders import models
from rft_api.reward_environment import environment_problems
from rft_api.reward_function import RewardFunction


def local_reward_errors(manifests: Manifests, function: RewardFunction) -> Iterator[ManifestError]:
    """An error for everything that only a cluster has, and for what this machine lacks: credentials and files."""
    origin = manifests.origins[function.kind, function.metadata.name]
    for violation in [*_endpoints(function), *environment_problems(function.spec, os.environ)]:
        yield origin.error(violation)


def _endpoints(function: RewardFunction) -> Iterator[Violation]:
    for location, grader in function.spec.graders():
        for field, model in models(grader):
            if model.endpoint is not None:
                message = (
                    "an InferenceEndpoint lives in a cluster; on this machine, set url and name of a model instead"
                )
                yield Violation(message, (*location, field, "model", "endpoint"))
