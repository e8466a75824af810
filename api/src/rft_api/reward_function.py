"""The RewardFunction resource: how completions are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema, model_validator

from rft_api.builtin_reward import BuiltinReward
from rft_api.builtin_table import CodeReward
from rft_api.model import Location, Model, Rule, RuleViolations, Violation
from rft_api.openai_grader import AnyGrader, asks_model
from rft_api.quantities import (
    AtLeast,
    Between,
    DecimalString,
    Duration,
    Integer,
    Name,
    Quantity,
    SignedDecimalString,
    duration_seconds,
    exactly_one_of,
)
from rft_api.remote_reward import HttpReward, JudgeLimits, JudgeModel, JudgeReward, LambdaReward
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
            raise RuleViolations([Violation("set model: score_model and label_model ask one")])
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
        Rule(
            cel="!has(self.minimum) || !has(self.maximum) || double(self.minimum) <= double(self.maximum)",
            message="minimum must not be above maximum",
            holds=lambda expectation: (
                None in (expectation.minimum, expectation.maximum)
                or float(expectation.minimum) <= float(expectation.maximum)
            ),
        ),
    )

    minimum: SignedDecimalString | None = None
    """Least reward that passes."""
    maximum: SignedDecimalString | None = None
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

    memory: Annotated[Quantity, AtLeast("16Mi")] = "512Mi"
    """Address space beyond what the bare interpreter takes."""
    processes: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Processes that score at the same time."""
    readable: Annotated[list[AbsolutePath], Field(max_length=16)] = []
    """Files and folders of the pod that the code may read besides Python's own, such as a mounted volume's."""


CODE_SHARE = 10
"""Times that the timeout of Code fits into the function's. A sample that is told apart from its batch gets an eighth of
the function's: code that hangs must fail well within it, as a wrong answer does, and not be an error."""

# What a cel expression calls `reward` is a grader; the timeout of Code without options is the default.
_CODE_IN_TIME = (
    "!has({grader}.builtin) || {grader}.builtin.name != 'Code' || "
    "duration(has({grader}.builtin.code) ? {grader}.builtin.code.timeout : '" + CodeReward().timeout + "').getSeconds()"
    f" * {CODE_SHARE} <= duration(self.timeout).getSeconds()"
)


def _codes_out_of_time(spec: RewardFunctionSpec) -> list[Location]:
    """Where a timeout of Code is too long for that of the function."""
    return [
        (*location[1:], "builtin", "code", "timeout")  # from the spec on
        for location, grader in spec.graders()
        if grader.builtin is not None
        and isinstance(grader.builtin.options, CodeReward)
        and CODE_SHARE * duration_seconds(grader.builtin.options.timeout) > duration_seconds(spec.timeout)
    ]


class RewardFunctionSpec(Grader):
    """How completions are scored."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one_of(*_GRADERS, "combine"),
        Rule(
            cel=f"({_CODE_IN_TIME.format(grader='self')}) && "
            f"(!has(self.combine) || self.combine.terms.all(term, {_CODE_IN_TIME.format(grader='term')}))",
            message=f"the timeout of Code, {CodeReward().timeout} by default, must be at most a tenth of spec.timeout",
            holds=lambda spec: not _codes_out_of_time(spec),
            places=_codes_out_of_time,
        ),
    )

    combine: CombineReward | None = None
    """A weighted sum of other rewards."""
    tests: Annotated[list[RewardTest], Field(max_length=64)] = []
    """Samples that have to score as expected before the function is Ready."""
    timeout: Annotated[Duration, AtLeast("1s")] = "30s"
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
