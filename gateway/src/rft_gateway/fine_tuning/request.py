"""Reads requests for fine-tuning jobs and about graders. What cannot be honoured is refused, with its field's path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rft_api.model import Json, RuleViolations, Violation
from rft_api.openai_grader import LabelModel, Multi, PythonScript, ScoreModel, StringCheck, TextSimilarity
from rft_api.quantities import Name
from rft_api.remote_reward import FunctionArn, Url
from rft_gateway.errors import invalid_document

MOST_PAIRS = 16
LONGEST_KEY = 64
LONGEST_VALUE = 512

_METHODS = {"dpo": "preferences (dpo) are not supported; use reinforcement with a grader, or supervised"}
_RESPONSE_FORMAT = "completions cannot be bound to a format in training: leave response_format out"


class _Fields(BaseModel):
    """An object of the request. Unknown fields are refused; null is as good as nothing: OpenAI's clients write it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    unsupported: ClassVar[Mapping[str, str]] = {}
    """Fields that other services have, with the reason why they are refused."""

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        stated = {name: value for name, value in fields.items() if value is not None}
        refused = [Violation(cls.unsupported[name], (name,)) for name in stated if name in cls.unsupported]
        if refused:
            raise RuleViolations(refused)
        return stated


def _whole(low: int, high: int) -> PlainValidator:
    def check(value: Any) -> Any:
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            return value
        raise PydanticCustomError("setting", f'must be "auto" or a whole number from {low:,} to {high:,}')

    return PlainValidator(check)


def _multiplier(low: float, high: float, text: str) -> PlainValidator:
    def check(value: Any) -> Any:
        if value == "auto" or (isinstance(value, (int, float)) and not isinstance(value, bool) and low < value <= high):
            return value
        raise PydanticCustomError("setting", 'must be "auto" or a number {text}', {"text": text})

    return PlainValidator(check)


Whole = int | Literal["auto"]
Multiplier = float | Literal["auto"]


class Hyperparameters(_Fields):
    """Hyperparameters of a job, in OpenAI's bounds; "auto" leaves one to the namespace's defaults."""

    batch_size: Annotated[Whole, _whole(1, 256)] = "auto"
    """Number of prompts for each step."""
    n_epochs: Annotated[Whole, _whole(1, 50)] = "auto"
    """Number of passes over the training prompts."""
    learning_rate_multiplier: Annotated[Multiplier, _multiplier(0, 1e9, "above 0")] = "auto"
    """Factor of the default learning rate."""
    compute_multiplier: Annotated[Multiplier, _multiplier(1e-5, 10, "above 0.00001 and at most 10")] = "auto"
    """Factor of the default number of completions for each prompt."""
    eval_interval: Annotated[Whole, _whole(1, 1_000_000)] = "auto"
    """Number of steps between two validations."""
    eval_samples: Annotated[Whole, _whole(1, 128)] = "auto"
    """Number of completions for each validation prompt."""
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    """How much the model is to think, for models whose chat template has this variable."""


class SupervisedHyperparameters(_Fields):
    """Hyperparameters of a supervised job, in OpenAI's bounds; "auto" leaves one to the namespace's defaults."""

    batch_size: Annotated[Whole, _whole(1, 256)] = "auto"
    """Number of answers for each step."""
    n_epochs: Annotated[Whole, _whole(1, 50)] = "auto"
    """Number of passes over the conversations."""
    learning_rate_multiplier: Annotated[Multiplier, _multiplier(0, 1e9, "above 0")] = "auto"
    """Factor of the default learning rate."""


class LambdaFunction(_Fields):
    """An AWS Lambda, as a grader of Amazon Bedrock names it."""

    function: FunctionArn
    """Its ARN."""


class LambdaGrader(_Fields):
    """A grader of Amazon Bedrock: an AWS Lambda."""

    type: Literal["lambda"]
    name: Annotated[str, Field(max_length=256)] = ""
    """Name of the grader, which only whoever asks reads."""
    lambda_: Annotated[LambdaFunction, Field(alias="lambda")]
    """The Lambda."""


class EndpointGrader(_Fields):
    """A grader of Azure OpenAI: an HTTP server that gets a sample in each request."""

    unsupported = {
        "headers": "hold keys, which everybody could read in the RFTJob: leave them out. Whoever administrates the "
        "namespace gives them, from a Secret, in graders.endpoints of its settings",
        "pass_threshold": "completions are not counted as passed or failed: leave pass_threshold out",
    }

    type: Literal["endpoint"]
    name: Annotated[str, Field(max_length=256)] = ""
    """Name of the grader, which only whoever asks reads."""
    url: Url
    """URL of the server."""
    rate_limit: Annotated[int, Field(ge=1, le=10000)] | None = None
    """Maximum number of requests in a second."""


class FunctionGrader(_Fields):
    """A RewardFunction of the namespace."""

    type: Literal["reward_function"]
    name: Name
    """Its name."""


OpenAIGrader = StringCheck | TextSimilarity | PythonScript | ScoreModel | LabelModel | Multi
Grader = OpenAIGrader | LambdaGrader | FunctionGrader | EndpointGrader
GraderField = Annotated[Grader, Field(discriminator="type")]
"""A grader as a field of a request."""


class Reinforcement(_Fields):
    """What a job by reinforcement is."""

    unsupported = {
        "response_format": _RESPONSE_FORMAT,
        "tools": "tools in training are not supported: leave tools out",
        "max_episode_steps": "episodes of several turns are not supported: leave max_episode_steps out",
    }

    grader: GraderField
    """What scores completions."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Its hyperparameters."""


class Supervised(_Fields):
    """What a supervised job is."""

    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()
    """Its hyperparameters."""


class Method(_Fields):
    """How the model is trained."""

    type: Literal["reinforcement", "supervised"]
    reinforcement: Reinforcement | None = None
    """The part for this type."""
    supervised: Supervised | None = None
    """The part for this type, whose hyperparameters may all be those of the namespace."""

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, fields: Any) -> Any:
        kind = fields.get("type") if isinstance(fields, dict) else None
        if isinstance(kind, str) and kind in _METHODS:
            raise RuleViolations([Violation(_METHODS[kind], ("type",))])
        return fields

    @model_validator(mode="after")
    def _has_its_part(self) -> Method:
        if self.type == "reinforcement" and self.reinforcement is None:
            raise RuleViolations([Violation("is required", ("reinforcement",))])
        other = "supervised" if self.type == "reinforcement" else "reinforcement"
        if getattr(self, other) is not None:
            raise RuleViolations([Violation(f"belongs to type {other}, and the type is {self.type}", (other,))])
        return self


def _check_metadata(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > MOST_PAIRS:
        raise RuleViolations([Violation(f"must have at most {MOST_PAIRS} pairs, and has {len(pairs):,}")])
    wrong = [
        Violation(f"the key must have at most {LONGEST_KEY} characters") for key in pairs if len(key) > LONGEST_KEY
    ]
    wrong += [
        Violation(f"must have at most {LONGEST_VALUE} characters, and has {len(value):,}", (key,))
        for key, value in pairs.items()
        if len(value) > LONGEST_VALUE
    ]
    if wrong:
        raise RuleViolations(wrong)
    return pairs


def _without_integrations(integrations: list[Any]) -> list[Any]:
    if integrations:
        message = "runs are not sent to trackers from here: leave integrations out"
        raise PydanticCustomError("integrations", "{message}", {"message": message})
    return integrations


class CreateRequest(_Fields):
    """The request that creates a job."""

    model: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the base endpoint whose model is tuned."""
    training_file: Annotated[str, Field(min_length=1, max_length=1024)]
    """Id of the file with the training prompts, or with the conversations of a supervised job."""
    validation_file: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Id of the file with rows for validation. Without it, some of the training file are set aside."""
    method: Method = Method(type="supervised")
    """How the model is trained."""
    hyperparameters: SupervisedHyperparameters | None = None
    """Those of a supervised job without a method, as scripts from before methods have them."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Text that the name of the tuned model has."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    """Seed of all random numbers."""
    metadata: Annotated[dict[str, str], AfterValidator(_check_metadata)] = {}
    """Texts that belong to the job."""
    integrations: Annotated[list[Any], AfterValidator(_without_integrations)] = []
    """Trackers: none."""

    @model_validator(mode="after")
    def _states_hyperparameters_once(self) -> CreateRequest:
        if self.hyperparameters is not None and "method" in self.model_fields_set:
            message = f"is no place for them beside a method: write method.{self.method.type}.hyperparameters"
            raise RuleViolations([Violation(message, ("hyperparameters",))])
        return self

    @property
    def reinforcement(self) -> Reinforcement | None:
        """What a job by reinforcement is; None of a supervised one."""
        return self.method.reinforcement

    @property
    def supervised(self) -> SupervisedHyperparameters:
        """The hyperparameters of a supervised job."""
        if self.hyperparameters is not None:
            return self.hyperparameters
        return (self.method.supervised or Supervised()).hyperparameters


class ValidateRequest(_Fields):
    """The request that asks whether a grader could be a job's."""

    grader: GraderField
    """The grader."""


class RunRequest(_Fields):
    """The request that runs a grader for one sample."""

    grader: GraderField
    """The grader."""
    model_sample: Annotated[str, Field(max_length=1 << 20)]
    """The completion."""
    item: dict[str, Any] = {}
    """The data row."""


_Request = TypeVar("_Request", bound=_Fields)


def read_request(document: Json) -> CreateRequest:
    """Return the request for a job.

    Args:
        document: the body of the request.

    Raises:
        ApiError: 400 with the first wrong field as `param`; the message has up to five of them.
    """
    return _read(CreateRequest, document)


def read_validation(document: Json) -> ValidateRequest:
    """Return the request to validate a grader.

    Args:
        document: the body of the request.

    Raises:
        ApiError: 400 as that of `read_request`.
    """
    return _read(ValidateRequest, document)


def read_run(document: Json) -> RunRequest:
    """Return the request to run a grader.

    Args:
        document: the body of the request.

    Raises:
        ApiError: 400 as that of `read_request`.
    """
    return _read(RunRequest, document)


def _read(model: type[_Request], document: Json) -> _Request:
    try:
        return model.model_validate(document, strict=True)
    except ValidationError as invalid:
        raise invalid_document(invalid, document, model) from None


def stated(document: Any) -> Any:
    """Return a document without the fields that are null, at any depth: what whoever asks has stated."""
    if isinstance(document, dict):
        return {name: stated(value) for name, value in document.items() if value is not None}
    return [stated(item) for item in document] if isinstance(document, list) else document
