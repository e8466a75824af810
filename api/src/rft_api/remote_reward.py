"""Rewards that other services compute: judges, AWS Lambdas and HTTP servers."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from rft_api.model import Model, Rule, RuleViolations, Violation
from rft_api.quantities import Integer, Name, exactly_one_of

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADERS_OF_THE_SERVER = {"content-length", "content-type", "host", "transfer-encoding"}


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    # Spaces, controls and the like would be refused when the first sample is sent.
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise PydanticCustomError("url", "is not a URL")
    return url


CredentialKey = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""A key of the Secret that spec.credentials names; it becomes an environment variable, so a name of one."""

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://.+$"), AfterValidator(_check_url)]
"""An address of an HTTP server."""

BatchSize = Annotated[Integer, Field(ge=1, le=8192)]

Concurrency = Annotated[Integer, Field(ge=1, le=256)]


class BedrockModel(Model):
    """A model on Amazon Bedrock."""

    model_id: Annotated[str, Field(min_length=1, max_length=2048)]
    """Model id or inference profile ARN."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """AWS region; that of the credentials when absent."""


class JudgeModel(Model):
    """The model that judges."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one_of("url", "endpoint", "bedrock"),
        Rule(
            cel="has(self.url) == has(self.name)",
            message="name goes with url: the model's name there",
            holds=lambda model: (model.url is None) == (model.name is None),
        ),
        Rule(
            cel="has(self.url) || (!has(self.tokenKey) && !has(self.caKey))",
            message="tokenKey and caKey belong to url",
            holds=lambda model: model.url is not None or (model.token_key is None and model.ca_key is None),
        ),
    )

    url: Url | None = None
    """Base URL of an OpenAI-compatible API, such as https://api.openai.com/v1."""
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The model's name at that URL."""
    token_key: CredentialKey | None = None
    """Key of the credentials Secret that is sent to the URL as bearer token; none is sent when absent."""
    ca_key: CredentialKey | None = None
    """Key of the credentials Secret with the certificates (PEM) that the URL's own is checked against."""
    endpoint: Name | None = None
    """Name of an InferenceEndpoint in the same namespace."""
    bedrock: BedrockModel | None = None
    """A model on Amazon Bedrock."""


class JudgeLimits(Model):
    """Bounds of what a judge is asked at once, in each reward server pod."""

    concurrency: Concurrency = 16
    """Requests at the same time."""
    requests_per_minute: Annotated[Integer, Field(ge=1)] | None = None
    """Requests in any 60 seconds."""
    tokens_per_minute: Annotated[Integer, Field(ge=1)] | None = None
    """Tokens, of prompts and answers, in any 60 seconds."""


class JudgeReward(Model):
    """A model that rates completions from 1 to 5 by a rubric; the score is (rating - 1) / 4."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.votes % 2 == 1",
            message="votes must be odd",
            holds=lambda judge: judge.votes % 2 == 1,
        ),
    )

    template: Literal["InstructionFollowing", "Summarization", "Reasoning", "Faithfulness"]
    """What is judged."""
    rubric: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """What earns which rating from 1 to 5; the template's own when absent."""
    model: JudgeModel
    """The model that judges."""
    votes: Annotated[Integer, Field(ge=1, le=9)] = 1
    """Times that each completion is rated, an odd number; the median counts."""
    max_tokens: Annotated[Integer, Field(ge=16, le=131072)] = 1024
    """Tokens that the judge may write for one rating, its thoughts included."""
    limits: JudgeLimits = JudgeLimits()
    """Bounds of what the judge is asked at once."""


class LambdaReward(Model):
    """An AWS Lambda in the contract of Amazon Bedrock's reward Lambdas."""

    function_arn: Annotated[str, Field(max_length=2048, pattern=r"^arn:[^:]+:lambda:[^:]+:[0-9]+:function:.+$")]
    """ARN of the function, with or without a version or alias."""
    batch_size: BatchSize = 64
    """Most samples of one invocation."""
    concurrency: Concurrency = 8
    """Invocations at the same time, by each reward server pod."""


class HttpReward(Model):
    """A server of the user's with the same contract as the reward server."""

    url: Url
    """Where samples are posted to."""
    token_key: CredentialKey | None = None
    """Key of the credentials Secret that is sent as bearer token."""
    headers: Annotated[dict[str, CredentialKey], Field(max_length=32)] = {}
    """Further headers: from a header's name to the key of the credentials Secret with its value."""
    ca_key: CredentialKey | None = None
    """Key of the credentials Secret with the certificates (PEM) that the server's own is checked against."""
    batch_size: BatchSize = 64
    """Most samples of one request."""
    concurrency: Concurrency = 8
    """Requests at the same time, by each reward server pod."""

    @field_validator("headers")
    @classmethod
    def _can_be_set(cls, headers: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in headers if not _HEADER_NAME.fullmatch(name) or name.lower() in _HEADERS_OF_THE_SERVER]
        if wrong:
            raise RuleViolations([Violation("is not a header that can be set", (name,)) for name in wrong])
        return headers
