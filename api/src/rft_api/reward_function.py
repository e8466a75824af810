"""The RewardFunction resource: how completions are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema, model_validator

from rft_api.builtin_reward import BuiltinReward
from rft_api.model import Location, Model, Rule, RuleViolations
from rft_api.openai_grader import AnyGrader, asks_model
from rft_api.quantities import Between, DecimalString, Duration, Integer, Name, Quantity, exactly_one_of
from rft_api.resource import API_VERSION, Conditions, FreeForm, Metadata, PodOverrides, SecretReference

AnyJson = Annotated[Any, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A JSON value of any type."""


class ConfigMapKey(Model):
    """A key of a ConfigMap in the object's namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key in its data."""


class SourceFrom(Model):
    """Where code is read from."""

    config_map: ConfigMapKey
    """A ConfigMap's key."""


class PythonReward(Model):
    """A Python function in the contract of Amazon Bedrock's reward Lambdas; it runs in the sandbox."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("source", "source_from"),)

    source: Annotated[str, Field(min_length=1, max_length=262144)] | None = None
    """The code; the standard library can be imported."""
    source_from: SourceFrom | None = None
    """Where the code is read from instead."""
    handler: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "lambda_handler"
    """Function `(event, context)` that scores a list of samples."""


CredentialKey = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""A key of the Secret that spec.credentials names; it becomes an environment variable, so a name of one."""

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://.+$")]

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


class OpenAIReward(Model):
    """A grader in OpenAI's JSON."""

    grader: Annotated[AnyGrader, WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
    """The grader, as OpenAI documents it."""
    model: JudgeModel | None = None
    """The model that score_model and label_model ask, in place of the one that they name."""
    limits: JudgeLimits = JudgeLimits()
    """Bounds of what the model is asked at once."""

    @model_validator(mode="after")
    def _has_model(self) -> OpenAIReward:
        # No rule: CEL cannot look into a grader.
        if asks_model(self.grader) and self.model is None:
            raise RuleViolations(["set model: score_model and label_model ask one"])
        return self


_GRADERS = ("python", "builtin", "judge", "lambda_", "http", "openai")


class Grader(Model):
    """One way to compute a reward."""

    python: PythonReward | None = None
    """The user's Python code."""
    builtin: BuiltinReward | None = None
    """A verifiable reward that comes with the reward server."""
    judge: JudgeReward | None = None
    """A model as judge."""
    lambda_: Annotated[LambdaReward | None, Field(alias="lambda")] = None
    """An AWS Lambda."""
    http: HttpReward | None = None
    """A server of the user's."""
    openai: OpenAIReward | None = None
    """A grader in OpenAI's JSON."""


class CombineTerm(Grader):
    """A weighted part of a combined reward."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of(*_GRADERS),)

    name: Name
    """Name of the component in metrics and rollouts."""
    weight: Annotated[DecimalString, Between("0", "1000000")] = "1"
    """Factor of this term in the sum; 0 records the component without training on it."""


class CombineReward(Model):
    """A weighted sum of other rewards, each reported as a component."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.terms.all(a, self.terms.exists_one(b, b.name == a.name))",
            message="every term needs a name of its own",
            holds=lambda combine: len({term.name for term in combine.terms}) == len(combine.terms),
        ),
    )

    terms: Annotated[list[CombineTerm], Field(min_length=1, max_length=16)]
    """The parts; the reward is the sum of weight times score."""


class Expectation(Model):
    """Bounds of an expected reward."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.minimum) || has(self.maximum)",
            message="set minimum, maximum or both",
            holds=lambda expectation: expectation.minimum is not None or expectation.maximum is not None,
        ),
    )

    minimum: DecimalString | None = None
    """Least reward that passes."""
    maximum: DecimalString | None = None
    """Greatest reward that passes."""


class RewardTest(Model):
    """A sample with a known reward."""

    prompt: Annotated[str, Field(max_length=262144)]
    """The user's message."""
    completion: Annotated[str, Field(max_length=262144)]
    """The assistant's answer to score."""
    reference_answer: AnyJson = None
    """The reference answer: a string or an object."""
    metadata: FreeForm = {}
    """Further fields of the sample."""
    expect: Expectation
    """What the reward must be."""


class Egress(Model):
    """A destination that the reward server may reach."""

    cidr: Annotated[str, Field(max_length=64)]
    """Addresses, such as 203.0.113.0/24."""
    port: Annotated[Integer, Field(ge=1, le=65535)] = 443
    """TCP port."""


AbsolutePath = Annotated[str, Field(max_length=4096, pattern=r"^/")]
"""A path that begins at the root."""


class Sandbox(Model):
    """Limits of each process that runs Python code."""

    memory: Quantity = "512Mi"
    """Address space beyond what the bare interpreter takes."""
    processes: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Processes that score at the same time."""
    readable: Annotated[list[AbsolutePath], Field(max_length=16)] = []
    """Files and folders of the pod that the code may read besides Python's own, such as a mounted volume's."""


class RewardFunctionSpec(Grader):
    """How completions are scored."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of(*_GRADERS, "combine"),)

    combine: CombineReward | None = None
    """A weighted sum of other rewards."""
    tests: Annotated[list[RewardTest], Field(max_length=64)] = []
    """Samples that have to score as expected before the function is Ready."""
    timeout: Duration = "30s"
    """Time that one batch of samples may take."""
    replicas: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Reward server pods."""
    egress: Annotated[list[Egress], Field(max_length=32)] = []
    """Destinations that the pod may reach; none by default."""
    sandbox: Sandbox = Sandbox()
    """Limits of each process that runs Python code."""
    credentials: SecretReference | None = None
    """Secret with the credentials for judges, Lambda and http: what AWS reads, and the keys that graders name."""
    pod: PodOverrides | None = None
    """Changes to the reward server's pods."""

    def graders(self) -> Iterator[tuple[Location, Grader]]:
        """The graders with their places in the manifest: the terms of a combined reward, or the spec itself."""
        if self.combine is None:
            yield ("spec",), self
            return
        for index, term in enumerate(self.combine.terms):
            yield ("spec", "combine", "terms", index), term

    def update_graders(self, update: Callable[[Location, Grader], Mapping[str, object]]) -> RewardFunctionSpec:
        """The spec with other values in some fields of its graders.

        Args:
            update: from a grader and its place to the new values of its fields, by the fields' names; they are not
                validated.
        """
        if self.combine is None:
            return self.model_copy(update=dict(update(("spec",), self)))
        terms = [grader.model_copy(update=dict(update(location, grader))) for location, grader in self.graders()]
        return self.model_copy(update={"combine": self.combine.model_copy(update={"terms": terms})})


class RewardFunctionStatus(Model):
    """What the operator observed."""

    conditions: Conditions = []
    """The state, one condition per aspect."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """Where samples are scored."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Digest of the code and options that compute the reward."""


class RewardFunction(Model):
    """A way to tell good answers from bad."""

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Always rft.dev/v1alpha1."""
    kind: Literal["RewardFunction"] = "RewardFunction"
    """Always RewardFunction."""
    metadata: Metadata
    """Standard object metadata."""
    spec: RewardFunctionSpec
    """What is wanted."""
    status: RewardFunctionStatus | None = None
    """What is."""
