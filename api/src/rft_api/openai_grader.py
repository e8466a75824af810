"""Graders in OpenAI's JSON, as its guide on graders and its API reference have them; field names are OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from rft_api.model import Location
from rft_api.openai_formula import FUNCTIONS, parse_formula
from rft_api.openai_template import parse_template


def _refuse(problem: ValueError) -> PydanticCustomError:
    return PydanticCustomError("openai_grader", "{problem}", {"problem": str(problem)})


def _template(text: str) -> str:
    try:
        parse_template(text)
    except ValueError as problem:
        raise _refuse(problem) from None
    return text


Template = Annotated[str, Field(max_length=262144), AfterValidator(_template)]
"""A text with `{{ item.x }}` and `{{ sample.output_text }}` in it."""

Number = Annotated[float, Field(allow_inf_nan=False)]


class _Grader(BaseModel):
    """Base of the graders: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    asks_model: ClassVar[bool] = False

    name: Annotated[str, Field(max_length=256)] = ""
    """What it is called."""


class StringCheck(_Grader):
    """1 when a comparison of two texts holds, else 0."""

    type: Literal["string_check"]
    input: Template
    """The text that is graded."""
    reference: Template
    """What it is compared with."""
    operation: Literal["eq", "ne", "like", "ilike"]
    """Equal, not equal, contains, contains without regard to case."""


class TextSimilarity(_Grader):
    """How similar two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    input: Template
    """The text that is graded."""
    reference: Template
    """What it is compared with."""
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip
    """The measure."""
    pass_threshold: Number | None = None
    """Least score that counts as passed."""

    @field_validator("evaluation_metric")
    @classmethod
    def _computable(cls, metric: str) -> str:
        needs = {"cosine": "OpenAI's embedding model", "meteor": "the WordNet data"}.get(metric)
        if needs is not None:
            raise PydanticCustomError(
                "openai_grader", "{metric} needs {needs}, which is not here", {"metric": metric, "needs": needs}
            )
        return metric


class PythonScript(_Grader):
    """What the function `grade(sample, item)` returns."""

    type: Literal["python"]
    source: Annotated[str, Field(min_length=1, max_length=262144)]
    """The code that defines it."""
    image_tag: str | None = None
    """OpenAI's image with further packages."""

    @field_validator("image_tag")
    @classmethod
    def _no_image(cls, tag: str | None) -> str | None:
        if tag is not None:
            raise PydanticCustomError(
                "openai_grader", "leave it out: the code runs with Python's standard library, not in OpenAI's images"
            )
        return tag


def _text_of(content: Any) -> Any:
    """The text of a message's content in any of the forms that OpenAI takes."""
    if isinstance(content, list):
        return "".join(str(_text_of(part)) for part in content)
    if isinstance(content, dict):
        if content.get("type") not in ("input_text", "output_text") or not isinstance(content.get("text"), str):
            raise PydanticCustomError("openai_grader", "must be text: images and audio cannot be shown to the model")
        return content["text"]
    return content


class InputMessage(BaseModel):
    """A message to the model that grades."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[Template, BeforeValidator(_text_of)]
    type: Literal["message"] | None = None


class SamplingParameters(BaseModel):
    """How the model that grades is sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = None
    top_p: Number | None = None
    temperature: Number | None = None
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class _ModelGrader(_Grader):
    asks_model: ClassVar[bool] = True

    input: Annotated[list[InputMessage], Field(min_length=1, max_length=64)]
    """The conversation with the model."""
    model: Annotated[str, Field(max_length=256)]
    """Its name at OpenAI; which model is asked here stands next to the grader."""
    sampling_params: SamplingParameters = SamplingParameters()
    """How it is sampled."""


class ScoreModel(_ModelGrader):
    """The score that a model gives."""

    type: Literal["score_model"]
    range: Annotated[list[Number], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    """Least and greatest score."""
    pass_threshold: Number | None = None
    """Least score that counts as passed."""

    @field_validator("range")
    @classmethod
    def _ascends(cls, bounds: list[float]) -> list[float]:
        if bounds[0] >= bounds[1]:
            raise PydanticCustomError("openai_grader", "must be the least and the greatest score, in this order")
        return bounds


class LabelModel(_ModelGrader):
    """1 when a model gives one of the passing labels, else 0."""

    type: Literal["label_model"]
    labels: Annotated[list[str], Field(min_length=1, max_length=256)]
    """All labels."""
    passing_labels: Annotated[list[str], Field(min_length=1, max_length=256)]
    """Those that score 1."""

    @field_validator("passing_labels")
    @classmethod
    def _are_labels(cls, passing: list[str], info: Any) -> list[str]:
        unknown = [label for label in passing if label not in info.data.get("labels", passing)]
        if unknown:
            raise PydanticCustomError("openai_grader", "{label} is not among labels", {"label": unknown[0]})
        return passing


SingleGrader = Annotated[
    StringCheck | TextSimilarity | PythonScript | ScoreModel | LabelModel, Field(discriminator="type")
]


class Multi(_Grader):
    """A formula over the scores of several graders."""

    type: Literal["multi"]
    graders: Annotated[dict[str, SingleGrader], Field(min_length=1, max_length=32)]
    """The graders, by the names that the formula has for them."""
    calculate_output: Annotated[str, Field(min_length=1, max_length=4096)]
    """The formula."""

    @field_validator("graders")
    @classmethod
    def _can_be_named(cls, graders: dict[str, Any]) -> dict[str, Any]:
        for key in graders:
            if not key.isidentifier() or key in FUNCTIONS:
                raise PydanticCustomError("openai_grader", "{key} cannot be named in a formula", {"key": key})
        return graders

    @field_validator("calculate_output")
    @classmethod
    def _is_formula(cls, text: str, info: Any) -> str:
        if "graders" in info.data:
            try:
                parse_formula(text, info.data["graders"])
            except ValueError as problem:
                raise _refuse(problem) from None
        return text


AnyGrader = Annotated[
    StringCheck | TextSimilarity | PythonScript | ScoreModel | LabelModel | Multi, Field(discriminator="type")
]


def grader_parts(grader: AnyGrader) -> Iterator[tuple[Location, AnyGrader]]:
    """The graders that a multi grader is made of, with their places in it; a single one is its own part."""
    if isinstance(grader, Multi):
        for key, part in grader.graders.items():
            yield ("graders", key), part
    else:
        yield (), grader


def single_graders(grader: AnyGrader) -> Iterator[tuple[str, AnyGrader]]:
    """The graders that a multi grader is made of, with their keys; a single one under its name or type."""
    for location, part in grader_parts(grader):
        yield str(location[-1]) if location else part.name or part.type, part


def asks_model(grader: AnyGrader) -> bool:
    """Whether any part of it needs a model."""
    return any(part.asks_model for _, part in single_graders(grader))
