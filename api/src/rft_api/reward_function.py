"""The RewardFunction resource: how completions are scored."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rft_api.model import Model, Rule
from rft_api.quantities import Between, Boolean, DecimalString, Duration, Integer, Name, Quantity, exactly_one_of
from rft_api.resource import API_VERSION, Conditions, FreeForm, Metadata, PodOverrides, SecretReference
from rft_api.rft_job import Uri

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


class MathReward(Model):
    """Options of the builtin Math."""

    relative_tolerance: Annotated[DecimalString, Between("0", "1")] = "0"
    """Difference from the ground truth, relative to it, that still counts as right."""
    answer_key: Annotated[str, Field(max_length=128)] | None = None
    """Field that holds the ground truth when the reference answer is an object."""


class ExactMatchReward(Model):
    """Options of the builtin ExactMatch."""

    ignore_case: Boolean = False
    """Whether upper and lower case are the same."""
    ignore_whitespace: Boolean = False
    """Whether runs of white space count as one space; white space around the answer never counts."""
    ignore_punctuation: Boolean = False
    """Whether punctuation is removed before comparing."""
    answer_key: Annotated[str, Field(max_length=128)] | None = None
    """Field that holds the expected text when the reference answer is an object."""
    pattern: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Regular expression whose first group (or whole match), last found in the completion, is the answer."""


class JsonReward(Model):
    """Options of the builtin Json."""

    json_schema: FreeForm | None = None
    """JSON Schema that the completion must satisfy; otherwise the score is 0."""
    compare_values: Boolean = True
    """Whether fields are compared with the reference answer's (F1 over fields); otherwise being valid scores 1."""
    allow_code_fence: Boolean = True
    """Whether the JSON may stand in a Markdown code fence."""


class FormatReward(Model):
    """Options of the builtin Format: the share of the stated constraints that hold."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.pattern) || has(self.minimumCharacters) || has(self.maximumCharacters) || "
            "(has(self.contains) && size(self.contains) > 0) || (has(self.excludes) && size(self.excludes) > 0)",
            message="state a constraint: pattern, minimumCharacters, maximumCharacters, contains or excludes",
            holds=lambda options: bool(
                options.pattern
                or options.minimum_characters is not None
                or options.maximum_characters is not None
                or options.contains
                or options.excludes
            ),
        ),
    )

    pattern: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Regular expression that the whole completion must match (dots match new lines)."""
    minimum_characters: Annotated[Integer, Field(ge=0)] | None = None
    """Fewest characters."""
    maximum_characters: Annotated[Integer, Field(ge=0)] | None = None
    """Most characters."""
    contains: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = []
    """Texts that must occur."""
    excludes: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = []
    """Texts that must not occur."""


_BUILTIN_OPTIONS = {"Math": "math", "ExactMatch": "exactMatch", "Json": "json", "Format": "format"}


def _only_own_options(builtin: BuiltinReward) -> bool:
    options = {"Math": builtin.math, "ExactMatch": builtin.exact_match, "Json": builtin.json_, "Format": builtin.format}
    return all(value is None for name, value in options.items() if name != builtin.name)


class BuiltinReward(Model):
    """A verifiable reward that comes with the reward server."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=" && ".join(f"(!has(self.{key}) || self.name == '{name}')" for name, key in _BUILTIN_OPTIONS.items()),
            message="options must be those of the builtin that name selects (math, exactMatch, json or format)",
            holds=lambda builtin: _only_own_options(builtin),
        ),
        Rule(
            cel="self.name != 'Format' || has(self.format)",
            message="builtin Format needs its constraints in format",
            holds=lambda builtin: builtin.name != "Format" or builtin.format is not None,
        ),
    )

    name: Literal["Math", "ExactMatch", "Json", "Format"]
    """Which one."""
    math: MathReward | None = None
    """Options of Math."""
    exact_match: ExactMatchReward | None = None
    """Options of ExactMatch."""
    json_: Annotated[JsonReward | None, Field(alias="json")] = None
    """Options of Json."""
    format: FormatReward | None = None
    """Options of Format."""


class BedrockModel(Model):
    """A model on Amazon Bedrock."""

    model_id: Annotated[str, Field(min_length=1, max_length=2048)]
    """Model id or inference profile ARN."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """AWS region; that of the credentials when absent."""


class JudgeModel(Model):
    """The model that judges."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("url", "endpoint", "bedrock"),)

    url: Uri | None = None
    """Base URL of an OpenAI-compatible API."""
    endpoint: Name | None = None
    """Name of an InferenceEndpoint in the same namespace."""
    bedrock: BedrockModel | None = None
    """A model on Amazon Bedrock."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """The model's name in the API; needed with url."""


class JudgeReward(Model):
    """A model that scores completions by a rubric."""

    template: Literal["InstructionFollowing", "Summarization", "Reasoning", "Faithfulness"]
    """The prompt that the rubric is put in."""
    rubric: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """What earns which score; the template's own when absent."""
    model: JudgeModel
    """The model that judges."""


class LambdaReward(Model):
    """An AWS Lambda in the contract of Amazon Bedrock's reward Lambdas."""

    function_arn: Annotated[str, Field(max_length=2048, pattern=r"^arn:[^:]+:lambda:[^:]+:[0-9]+:function:.+$")]
    """ARN of the function."""


class HttpReward(Model):
    """A server of the user's with the same contract as the reward server."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+$")]
    """Where samples are posted to."""


class OpenAIReward(Model):
    """A grader in OpenAI's JSON."""

    grader: FreeForm
    """The grader, as OpenAI documents it."""


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


class Sandbox(Model):
    """Limits of each process that runs Python code."""

    memory: Quantity = "512Mi"
    """Address space beyond what the bare interpreter takes."""
    processes: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Processes that score at the same time."""


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
    """Secret with the credentials for judges, Lambda and http."""
    pod: PodOverrides | None = None
    """Changes to the reward server's pods."""


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
