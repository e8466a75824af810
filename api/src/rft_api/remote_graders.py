"""What the graders that ask other services need: models, network destinations and credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rft_api.model import Location
from rft_api.remote_reward import JudgeModel
from rft_api.reward_function import Grader, RewardFunction, RewardFunctionSpec

AWS_PREFIX = "AWS_"
"""Prefix of the names of the environment variables that boto3 reads."""


def models(grader: Grader) -> Iterator[tuple[tuple[str, str], JudgeModel]]:
    """Yield the models that a grader asks, with the fields that state them: that of the grader, and that in the
    grader."""
    if grader.judge is not None:
        yield ("judge", "model"), grader.judge.model
    if grader.openai is not None and grader.openai.model is not None:
        yield ("openai", "model"), grader.openai.model
    if grader.openai is not None and grader.openai.embeddings is not None:
        yield ("openai", "embeddings"), grader.openai.embeddings


def judge_endpoints(spec: RewardFunctionSpec) -> list[str]:
    """Return the names of the InferenceEndpoints that graders ask, sorted."""
    used_models = [model for _, grader in spec.graders() for _, model in models(grader)]
    return sorted({model.endpoint for model in used_models if model.endpoint is not None})


def leaves_cluster(spec: RewardFunctionSpec) -> bool:
    """Return whether a grader asks a service outside of the cluster, so that `egress` has to allow it."""
    return any(
        any(model.endpoint is None for _, model in models(grader))
        or grader.lambda_ is not None
        or grader.http is not None
        for _, grader in spec.graders()
    )


def reads_credential(spec: RewardFunctionSpec, variable: str) -> bool:
    """Return whether a grader reads an environment variable of the reward server."""
    for _, grader in spec.graders():
        http, used_models = grader.http, [model for _, model in models(grader)]
        if any(variable in (model.token_key, model.ca_key) for model in used_models):
            return True
        if http is not None and variable in (http.token_key, http.ca_key, *http.headers.values()):
            return True
        aws = grader.lambda_ is not None or any(model.bedrock is not None for model in used_models)
        if aws and variable.startswith(AWS_PREFIX):
            return True
    return False


def with_endpoint_urls(function: RewardFunction, url_of: Callable[[str], str]) -> RewardFunction:
    """Return a copy of the function with the URLs and model names of its InferenceEndpoints in place of their names.

    Args:
        function: the function.
        url_of: returns the base URL of an endpoint. The name of its model there is the name of the endpoint.
    """

    def models_at_urls(_: Location, grader: Grader) -> dict[str, object]:
        return {
            field: getattr(grader, field).model_copy(
                update={name: JudgeModel(url=url_of(model.endpoint), name=model.endpoint)}
            )
            for (field, name), model in models(grader)
            if model.endpoint is not None
        }

    return function.model_copy(update={"spec": function.spec.update_graders(models_at_urls)})
