"""The RewardFunction resource: how completions are scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator

from rft_api.builtin_reward import BuiltinReward
from rft_api.builtin_table import CodeReward
from rft_api.model import Location, Model, Rule, RuleViolations, Violation
from rft_api.networks import Cidr
from rft_api.object_names import names_service, reward_server
from rft_api.openai_reward import OnError, OpenAIReward
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
from rft_api.remote_reward import AssistantRole, HttpReward, JudgeReward, LambdaReward, TextReferenceAnswer
from rft_api.requirements import Requirements
from rft_api.resource import API_VERSION, Conditions, FreeForm, Metadata, PodOverrides, SecretReference

AnyJson = Annotated[Any, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""A JSON value of any type."""

MAXIMUM_CODE: Final = 262144
"""Largest number of characters in the code of a reward, wherever it is read from."""


class ConfigMapKey(Model):
    """A key of a ConfigMap in the object's namespace."""

    name: Name
    """Name of the ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key in the data of the ConfigMap."""


class SourceFrom(Model):
    """A place that code is read from."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("config_map", "file"),)

    config_map: ConfigMapKey | None = None
    """The key of a ConfigMap that holds the code."""
    file: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A file of code, relative to the manifest. Only the command line rft can read it; a cluster needs source or
    configMap."""


_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

FileText = Annotated[str, Field(max_length=MAXIMUM_CODE)]
"""The text of a file."""


class PythonReward(Model):
    """A Python function that follows the contract of Amazon Bedrock's reward Lambdas. It runs in the sandbox."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("source", "source_from"),)

    source: Annotated[str, Field(min_length=1, max_length=MAXIMUM_CODE)] | None = None
    """The Python code. It can import the standard library, its files and the packages of its requirements."""
    source_from: SourceFrom | None = None
    """A place that the code is read from instead."""
    files: Annotated[dict[str, FileText], Field(min_length=1, max_length=32)] | None = None
    """Further files beside the code, by name: modules, which it can import (helpers.py as helpers), and data, which it
    can read in the folder of `__file__`."""
    requirements: Requirements | None = None
    """Packages that the code imports, such as numpy==2.*. They are installed from the package index, as wheels, before
    the server starts. Without versions, the newest is installed."""
    handler: Annotated[str, Field(max_length=128, pattern=r"^([A-Za-z0-9_/-]+\.)*[A-Za-z_][A-Za-z0-9_]*$")] = (
        "lambda_handler"
    )
    """Name of the function `(event, context)` that scores a list of samples. A module may stand before it, as in AWS
    Lambda (lambda_function.lambda_handler); the code is the module, whatever its name."""
    on_error: OnError | None = None
    """What a completion scores for which the function raises an exception: 0 (Zero), or nothing (Unscored, the
    default). Unscored completions are left out of the training. Time limits and memory limits never score 0."""
    text_reference_answer: TextReferenceAnswer | None = None
    """How the function gets a reference answer that is a text: as it is (AsText, the default), or as {"text": ...}
    (AsObject). Handlers that read reference_answer["text"] need AsObject."""
    assistant_role: AssistantRole | None = None
    """The role of the completion in the samples that the function gets: assistant, the default, or nova_assistant.
    Handlers that are written for Amazon Nova may look for nova_assistant only."""

    @property
    def function(self) -> str:
        """Name of the function in its module."""
        return self.handler.rpartition(".")[2]

    @field_validator("files")
    @classmethod
    def _have_names_of_files(cls, files: dict[str, str] | None) -> dict[str, str] | None:
        wrong = [name for name in files or {} if len(name) > 128 or not _FILE_NAME.fullmatch(name)]
        if wrong:
            message = "must be a relative path such as helpers.py or data/words.txt"
            raise RuleViolations([Violation(message, (name,)) for name in wrong])
        return files


_GRADERS = ("python", "builtin", "judge", "lambda_", "http", "openai")


class Grader(Model):
    """One way to compute a reward."""

    python: PythonReward | None = None
    """Python code of the user."""
    builtin: BuiltinReward | None = None
    """A builtin reward of the reward server."""
    judge: JudgeReward | None = None
    """A language model that rates the completions."""
    lambda_: Annotated[LambdaReward | None, Field(alias="lambda")] = None
    """An AWS Lambda that scores the completions."""
    http: HttpReward | None = None
    """An HTTP server of the user that scores the completions."""
    openai: OpenAIReward | None = None
    """A grader in the JSON format of OpenAI."""


class CombineTerm(Grader):
    """A term of a combined reward."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of(*_GRADERS),)

    name: Name
    """Name of the term's component in metrics and rollouts."""
    weight: Annotated[DecimalString, Between("0", "1000000")] = "1"
    """Weight of this term in the sum. Weight 0 records the component without training on it."""


class CombineReward(Model):
    """A weighted sum of other rewards. Each of them is reported as a component."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.terms.all(a, self.terms.exists_one(b, b.name == a.name))",
            message="every term needs a name of its own",
            holds=lambda combine: len({term.name for term in combine.terms}) == len(combine.terms),
        ),
    )

    terms: Annotated[list[CombineTerm], Field(min_length=1, max_length=16)]
    """Terms of the sum. The reward is the sum of weight times score over all terms."""


class Expectation(Model):
    """The range in which a reward is expected."""

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
    """Smallest reward with which the test passes."""
    maximum: SignedDecimalString | None = None
    """Largest reward with which the test passes."""


class RewardTest(Model):
    """A sample whose reward is known."""

    prompt: Annotated[str, Field(max_length=262144)]
    """The message of the user."""
    completion: Annotated[str, Field(max_length=262144)]
    """The answer of the assistant, which is scored."""
    reference_answer: AnyJson = None
    """The reference answer, a string or an object."""
    metadata: FreeForm = {}
    """Further fields of the sample."""
    expect: Expectation
    """The range in which the reward must be."""


class Egress(Model):
    """A network destination that the reward server may connect to."""

    cidr: Cidr
    """Range of IP addresses, such as 203.0.113.0/24 or 2001:db8::/32, with no bits set behind its prefix."""
    port: Annotated[Integer, Field(ge=1, le=65535)] = 443
    """TCP port."""


AbsolutePath = Annotated[str, Field(max_length=4096, pattern=r"^/")]
"""An absolute path."""


class Sandbox(Model):
    """Limits of the processes that run Python code."""

    memory: Annotated[Quantity, AtLeast("16Mi")] = "512Mi"
    """Maximum address space of a process, beyond what the Python interpreter itself needs."""
    processes: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Number of worker processes, which score at the same time."""
    readable: Annotated[list[AbsolutePath], Field(max_length=16)] = []
    """Files and folders of the pod that the code may read beside Python's own, such as those of a mounted volume."""


CODE_SHARE = 10
"""How many times the timeout of Code must fit into the timeout of the function. When a batch fails, its samples are
scored one by one, each in an eighth of the timeout. Code that hangs has to fail well within that time: it is a wrong
answer, and not an error."""

# What a cel expression calls `reward` is a grader; the timeout of Code without options is the default.
_CODE_IN_TIME = (
    "!has({grader}.builtin) || {grader}.builtin.name != 'Code' || "
    "duration(has({grader}.builtin.code) ? {grader}.builtin.code.timeout : '" + CodeReward().timeout + "').getSeconds()"
    f" * {CODE_SHARE} <= duration(self.timeout).getSeconds()"
)


def _codes_out_of_time(spec: RewardFunctionSpec) -> list[Location]:
    """Return the timeouts of Code that are too long for the timeout of the function."""
    return [
        (*location[1:], "builtin", "code", "timeout")  # from the spec on
        for location, grader in spec.graders()
        if grader.builtin is not None
        and isinstance(grader.builtin.options, CodeReward)
        and CODE_SHARE * duration_seconds(grader.builtin.options.timeout) > duration_seconds(spec.timeout)
    ]


def _sees_groups(grader: Grader) -> bool:
    return grader.python is not None or grader.judge is not None


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
        Rule(
            cel="!has(self.scope) || self.scope != 'Group' || has(self.python) || has(self.judge) || "
            "(has(self.combine) && self.combine.terms.exists(term, has(term.python) || has(term.judge)))",
            message="scope Group is for python and judge: other rewards score each completion by itself",
            holds=lambda spec: not spec.sees_groups or any(_sees_groups(grader) for _, grader in spec.graders()),
        ),
        Rule(
            cel="(has(self.scope) && self.scope == 'Group') || ((!has(self.judge) || !has(self.judge.orders)) && "
            "(!has(self.combine) || self.combine.terms.all(term, !has(term.judge) || !has(term.judge.orders))))",
            message="judge.orders is for scope Group, where a judge compares completions",
            holds=lambda spec: (
                spec.sees_groups
                or all(grader.judge is None or grader.judge.orders is None for _, grader in spec.graders())
            ),
        ),
    )

    scope: Literal["Sample", "Group"] | None = None
    """What is scored together: each completion by itself (Sample, the default), or all completions of a prompt (Group).
    With Group, python gets whole groups, whose samples have the same `group`, and a judge compares the completions of
    a group with one another. Other terms of a combined reward score each completion by itself."""
    combine: CombineReward | None = None
    """A weighted sum of other rewards."""
    tests: Annotated[list[RewardTest], Field(max_length=64)] = []
    """Samples with known rewards. The function becomes Ready only when all of them score as expected."""
    timeout: Annotated[Duration, AtLeast("1s")] = "30s"
    """Maximum time for scoring one batch of samples."""
    replicas: Annotated[Integer, Field(ge=1, le=64)] = 1
    """Number of reward server pods."""
    egress: Annotated[list[Egress], Field(max_length=32)] = []
    """Network destinations that the pods may connect to. By default they may connect to none."""
    sandbox: Sandbox = Sandbox()
    """Limits of the processes that run Python code."""
    credentials: SecretReference | None = None
    """Secret with the credentials for judges, Lambdas and HTTP servers: the variables of AWS, and the keys that graders
    name."""
    pod: PodOverrides | None = None
    """Settings of the reward server's pods that replace or extend the operator's."""

    @property
    def sees_groups(self) -> bool:
        """Whether all completions of a prompt are scored together."""
        return self.scope == "Group"

    def graders(self) -> Iterator[tuple[Location, Grader]]:
        """Yield the graders with their locations in the manifest: the terms of a combined reward, or the spec
        itself."""
        if self.combine is None:
            yield ("spec",), self
            return
        for index, term in enumerate(self.combine.terms):
            yield ("spec", "combine", "terms", index), term

    def requirements(self) -> list[str]:
        """Return the packages that the code of all graders needs, sorted and each once."""
        lists = [
            part.requirements or []
            for _, grader in self.graders()
            for part in (grader.python, grader.openai)
            if part is not None
        ]
        return sorted({requirement for requirements in lists for requirement in requirements})

    def update_graders(self, update: Callable[[Location, Grader], Mapping[str, object]]) -> RewardFunctionSpec:
        """Return a copy of the spec with other values in some fields of its graders.

        Args:
            update: returns the new values of a grader's fields, by their names, for its location and the grader. They
                are not validated.
        """
        if self.combine is None:
            return self.model_copy(update=dict(update(("spec",), self)))
        terms = [grader.model_copy(update=dict(update(location, grader))) for location, grader in self.graders()]
        return self.model_copy(update={"combine": self.combine.model_copy(update={"terms": terms})})


class RewardFunctionStatus(Model):
    """The observed state of the function."""

    conditions: Conditions = []
    """Conditions of the function, one for each aspect of its state."""
    url: Annotated[str, Field(max_length=2048)] | None = None
    """URL of the reward server."""
    digest: Annotated[str, Field(max_length=128)] | None = None
    """Digest of the code and the options that compute the reward."""


class RewardFunction(Model):
    """A RewardFunction scores completions, so that good answers can be told from bad ones."""

    rules: ClassVar[tuple[Rule, ...]] = (names_service(reward_server),)

    api_version: Literal["rft.dev/v1alpha1"] = API_VERSION
    """Always rft.dev/v1alpha1."""
    kind: Literal["RewardFunction"] = "RewardFunction"
    """Always RewardFunction."""
    metadata: Metadata
    """Standard object metadata."""
    spec: RewardFunctionSpec
    """The desired state of the function."""
    status: RewardFunctionStatus | None = None
    """The observed state of the function."""
