"""The rewards that other services compute: judges, AWS Lambdas and HTTP servers."""

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


def check_url(url: str) -> str:
    """Return a URL that can be requested, for fields.

    Raises:
        PydanticCustomError: when it is none.
    """
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
"""A key of the Secret that spec.credentials names. It becomes an environment variable, so it must be a name of one."""

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://.+$"), AfterValidator(check_url)]
"""The address of an HTTP server."""

FunctionArn = Annotated[str, Field(max_length=2048, pattern=r"^arn:[^:]+:lambda:[^:]+:[0-9]+:function:.+$")]
"""The ARN of an AWS Lambda."""

BatchSize = Annotated[Integer, Field(ge=1, le=8192)]

Concurrency = Annotated[Integer, Field(ge=1, le=256)]

TextReferenceAnswer = Literal["AsText", "AsObject"]
"""How a handler gets a reference answer that is a text: as it is, or as the object {"text": ...}."""

AssistantRole = Literal["assistant", "nova_assistant"]
"""The role of the completion in the samples of a handler."""


class BedrockModel(Model):
    """A model on Amazon Bedrock."""

    model_id: Annotated[str, Field(min_length=1, max_length=2048)]
    """Id of the model, or ARN of an inference profile."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """AWS region of the model. The default is the region of the credentials."""


class JudgeModel(Model):
    """A language model that is asked for a rating or a score."""

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
    """Base URL of the OpenAI-compatible API that serves the model, such as https://api.openai.com/v1."""
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Name of the model, as the API at the URL knows it. It must be set together with url, and only then."""
    token_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the bearer token for the URL. By default no token is sent."""
    ca_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the CA certificates (PEM) that the URL's certificate is verified with. The
    default is the system's CA certificates."""
    endpoint: Name | None = None
    """Name of the InferenceEndpoint, in the same namespace, that serves the model."""
    bedrock: BedrockModel | None = None
    """A model on Amazon Bedrock."""


class JudgeLimits(Model):
    """Limits on the requests to a model, for each reward server pod."""

    concurrency: Concurrency = 16
    """Maximum number of requests at the same time."""
    requests_per_minute: Annotated[Integer, Field(ge=1)] | None = None
    """Maximum number of requests in any 60 seconds. By default there is no limit."""
    tokens_per_minute: Annotated[Integer, Field(ge=1)] | None = None
    """Maximum number of tokens, of prompts and answers together, in any 60 seconds. By default there is no limit."""


class JudgeReward(Model):
    """A language model that rates each completion from 1 to 5 by a rubric. The score is (rating - 1) / 4. With
    spec.scope Group it ranks the completions of a prompt, and the score is the share of the others that one beats."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.votes % 2 == 1",
            message="votes must be odd",
            holds=lambda judge: judge.votes % 2 == 1,
        ),
    )

    template: Literal["InstructionFollowing", "Summarization", "Reasoning", "Faithfulness"]
    """Kind of task that the completions are rated for. The template contains the instructions for the model, and a
    rubric that is used unless rubric is set."""
    rubric: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """Description of what earns each rating from 1 to 5. The default is the rubric of the template."""
    model: JudgeModel
    """The model that rates the completions."""
    votes: Annotated[Integer, Field(ge=1, le=9)] = 1
    """Number of times that each completion is rated. It must be odd, because the median of the ratings counts."""
    orders: Annotated[Integer, Field(ge=1, le=8)] | None = None
    """Number of orders in which the completions of a group are shown to the model, for spec.scope Group. The mean over
    the orders counts, because models favour completions in some positions. The default is 2, of which one is the
    reverse of the other."""
    max_tokens: Annotated[Integer, Field(ge=16, le=131072)] = 1024
    """Maximum number of tokens that the model may generate for one rating, its reasoning included."""
    limits: JudgeLimits = JudgeLimits()
    """Limits on the requests to the model."""


class LambdaReward(Model):
    """An AWS Lambda that follows the contract of Amazon Bedrock's reward Lambdas."""

    function_arn: FunctionArn
    """ARN of the function, with or without a version or alias."""
    text_reference_answer: TextReferenceAnswer | None = None
    """Form of a reference answer that is a text in the samples. AsText, the default, sends the text itself. AsObject
    sends the object {"text": ...}."""
    assistant_role: AssistantRole | None = None
    """Role of the message with the completion in the samples: assistant, which is the default, or nova_assistant, which
    Amazon Nova uses."""
    batch_size: BatchSize = 64
    """Maximum number of samples in one invocation."""
    concurrency: Concurrency = 8
    """Maximum number of invocations at the same time, for each reward server pod."""


class HttpReward(Model):
    """An HTTP server of the user that follows the same contract as the reward server, or that of Azure OpenAI's
    endpoint graders."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.body) || self.body == 'Samples' || (!has(self.textReferenceAnswer) && "
            "!has(self.assistantRole))",
            message="textReferenceAnswer and assistantRole belong to body Samples",
            holds=lambda http: (
                http.body != "SampleAndItem" or (http.text_reference_answer is None and http.assistant_role is None)
            ),
        ),
    )

    url: Url
    """URL that samples are posted to."""
    body: Literal["Samples", "SampleAndItem"] | None = None
    """What is posted: a list of samples (Samples, the default), or one sample with its data row as sample, item and
    trace_id, which is answered by {"score": NUMBER} (SampleAndItem), as endpoint graders of Azure OpenAI have it."""
    requests_per_second: Annotated[Integer, Field(ge=1, le=10000)] | None = None
    """Maximum number of requests in any second, for each reward server pod. By default there is no limit."""
    text_reference_answer: TextReferenceAnswer | None = None
    """Form of a reference answer that is a text in the samples. AsText, the default, sends the text itself. AsObject
    sends the object {"text": ...}."""
    assistant_role: AssistantRole | None = None
    """Role of the message with the completion in the samples: assistant, which is the default, or nova_assistant, which
    Amazon Nova uses."""
    token_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the bearer token for the server. By default no token is sent."""
    headers: Annotated[dict[str, CredentialKey], Field(max_length=32)] = {}
    """Additional headers of the requests: for the name of each header, the key in the credentials Secret that holds its
    value."""
    ca_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the CA certificates (PEM) that the server's certificate is verified with. The
    default is the system's CA certificates."""
    batch_size: BatchSize = 64
    """Maximum number of samples in one request; with body SampleAndItem it is 1."""
    concurrency: Concurrency = 8
    """Maximum number of requests at the same time, for each reward server pod."""

    @field_validator("headers")
    @classmethod
    def _can_be_set(cls, headers: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in headers if not _HEADER_NAME.fullmatch(name) or name.lower() in _HEADERS_OF_THE_SERVER]
        if wrong:
            raise RuleViolations([Violation("is not a header that can be set", (name,)) for name in wrong])
        return headers
