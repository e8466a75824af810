"""Builds the remote grader of a manifest's judge, openai, lambda or http."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rft_api.remote_reward import JudgeLimits, JudgeModel
from rft_api.reward_environment import header_value
from rft_api.reward_function import Grader
from rft_reward.metrics import Metrics
from rft_reward.pool import Pool, PoolSettings
from rft_reward.remote.chat import Backend, ChatModel
from rft_reward.remote.limits import Limiter
from rft_reward.remote.pieces import RemoteGrader

if TYPE_CHECKING:
    from rft_reward.remote.embeddings import EmbeddingModel


def build(
    grader: Grader,
    workers: PoolSettings | None,
    seconds: float,
    environment: Mapping[str, str],
    metrics: Metrics,
    by_group: bool,
) -> RemoteGrader:
    """Build the remote grader of a manifest whose credentials have been checked. Only what it needs is imported.

    Args:
        grader: grader with one of judge, openai, lambda and http.
        workers: settings of the workers for the parts of an openai grader that ask no model.
        seconds: timeout of the function.
        environment: environment variables, which contain the credentials that the manifest names.
        metrics: metrics of the server.
        by_group: whether a judge compares the completions of a group, and does not rate each by itself.
    """
    if grader.judge is not None:
        from rft_reward.remote.judge import Judge

        judge = grader.judge
        chat_model = _chat_model(judge.model, judge.limits, seconds, environment, metrics)
        if by_group:
            from rft_reward.remote.group_judge import GroupJudge

            return GroupJudge(judge, chat_model, metrics)
        return Judge(judge, chat_model, metrics)
    if grader.openai is not None:
        from rft_reward.remote.openai_model import OpenAIModelGrader

        openai = grader.openai
        answering = (
            None if openai.model is None else _chat_model(openai.model, openai.limits, seconds, environment, metrics)
        )
        embeddings = (
            None
            if openai.embeddings is None
            else _embedding_model(openai.embeddings, openai.limits, environment, metrics)
        )
        pool = None if workers is None else Pool(workers, metrics)
        return OpenAIModelGrader(openai.grader, answering, embeddings, pool, metrics)
    if grader.lambda_ is not None:
        from rft_reward.remote.aws_lambda import AwsLambda

        return AwsLambda(grader.lambda_, seconds, metrics)
    from rft_reward.remote.http_server import HttpServer

    http = grader.http
    assert http is not None
    headers = {name: header_value(environment, key) for name, key in http.headers.items()}
    if http.token_key is not None:
        headers["authorization"] = f"Bearer {header_value(environment, http.token_key)}"
    return HttpServer(http, headers, environment[http.ca_key] if http.ca_key else None, metrics)


def _chat_model(
    model: JudgeModel, limits: JudgeLimits, seconds: float, environment: Mapping[str, str], metrics: Metrics
) -> ChatModel:
    backend: Backend
    if model.bedrock is not None:
        from rft_reward.remote.bedrock_chat import BedrockChat

        backend = BedrockChat(model.bedrock.model_id, model.bedrock.region, limits.concurrency, seconds)
    else:
        from rft_reward.remote.openai_chat import OpenAIChat

        assert model.url is not None
        assert model.name is not None
        backend = OpenAIChat(
            model.url,
            model.name,
            header_value(environment, model.token_key) if model.token_key else None,
            environment[model.ca_key] if model.ca_key else None,
        )
    return ChatModel(backend, _limiter(limits), metrics)


def _embedding_model(
    model: JudgeModel, limits: JudgeLimits, environment: Mapping[str, str], metrics: Metrics
) -> EmbeddingModel:
    from rft_reward.remote.embeddings import EmbeddingModel

    assert model.url is not None
    assert model.name is not None
    return EmbeddingModel(
        model.url,
        model.name,
        header_value(environment, model.token_key) if model.token_key else None,
        environment[model.ca_key] if model.ca_key else None,
        _limiter(limits),
        metrics,
    )


def _limiter(limits: JudgeLimits) -> Limiter:
    return Limiter(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
