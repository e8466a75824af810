"""Judges that a reward function names but that only a cluster has."""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.manifests import ManifestError, Manifests
from rft_api.remote_graders import models
from rft_api.reward_function import RewardFunction


def judge_endpoint_errors(found: Manifests, function: RewardFunction) -> Iterator[ManifestError]:
    """An error for each InferenceEndpoint that is to judge: on this machine there is none."""
    for location, grader in function.spec.graders():
        for field, model in models(grader):
            if model.endpoint is None:
                continue
            message = "an InferenceEndpoint lives in a cluster; on this machine, set url and name of a model instead"
            place = (*location, field, "model", "endpoint")
            yield found.error("RewardFunction", function.metadata.name, place, message)
