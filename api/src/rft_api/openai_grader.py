"""Graders in the JSON format of OpenAI's API reference and its guide on graders. The field names are OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rft_api.component_names import component_name
from rft_api.model import Location
from rft_api.openai_formula import FUNCTIONS, parse_formula
from rft_api.openai_template import format_path, parse_template


def _refuse(problem: ValueError) -> PydanticCustomError:
    return PydanticCustomError("openai_grader", "{problem}", {"problem": str(problem)})


def _template(text: str) -> str:
    try:
        parts = parse_template(text)
        for part in parts:
            if not isinstance(part, str):
                _check_path(part)
    except ValueError as problem:
        raise _refuse(problem) from None
    return text


def _check_path(path: list[str | int]) -> None:
    # Such a value would never be there, so that the grader would always score 0.
    if path[:2] == ["sample", "output_tools"] or (path[:2] == ["sample", "choices"] and "tool_calls" in path):
        raise ValueError(
            f"{{{{ {format_path(path)} }}}}: completions hold no tool calls here; read sample.output_text or "
            "sample.output_json"
        )


Template = Annotated[str, Field(max_length=262144), AfterValidator(_template)]
"""A text with placeholders, such as `{{ item.x }}` and `{{ sample.output_text }}`."""

Number = Annotated[float, Field(allow_inf_nan=False)]


def _without_nulls(fields: Any) -> Any:
    """Return the fields that are stated: OpenAI's client writes those that are not as null."""
    return {key: value for key, value in fields.items() if value is not None} if isinstance(fields, dict) else fields


class _Grader(BaseModel):
    """Base class of the graders. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    _drop_nulls = model_validator(mode="before")(_without_nulls)

    name: Annotated[str, Field(max_length=256)] = ""
    """Name of the grader."""

    @property
    def asks_model(self) -> bool:
        """Whether the grader asks a model."""
        return False


class StringCheck(_Grader):
    """Scores 1 if a comparison of two texts holds, and 0 otherwise."""

    type: Literal["string_check"]
    input: Template
    """The text that is graded."""
    reference: Template
    """The text that it is compared with."""
    operation: Literal["eq", "ne", "neq", "like", "ilike"]
    """Comparison: equal, not equal (ne or neq), contains, or contains without regard to case."""


class TextSimilarity(_Grader):
    """Scores the similarity of two texts, from 0 to 1; cosine from -1 to 1."""

    type: Literal["text_similarity"]
    input: Template
    """The text that is graded."""
    reference: Template
    """The text that it is compared with."""
    evaluation_metric: Literal[
        "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
        "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
    ]  # fmt: skip
    """Measure of the similarity."""
    pass_threshold: Number | None = None
    """Smallest score with which the grader passes."""

    @property
    def asks_model(self) -> bool:
        """Whether the grader asks a model for embeddings."""
        return self.evaluation_metric == "cosine"

    @field_validator("evaluation_metric")
    @classmethod
    def _computable(cls, metric: str) -> str:
        if metric == "meteor":
            raise PydanticCustomError(
                "openai_grader",
                "meteor needs the WordNet data, which is not available here: use rouge_l, gleu, or cosine with a model",
            )
        return metric


class PythonScript(_Grader):
    """Scores with the return value of the Python function `grade(sample, item)`."""

    type: Literal["python"]
    source: Annotated[str, Field(min_length=1, max_length=262144)]
    """Code that defines the function."""
    image_tag: Annotated[str, Field(max_length=256)] | None = None
    """Image of OpenAI with further packages. Here the code runs in the sandbox, whatever image is named."""
    pass_threshold: Number | None = None
    """Smallest score with which the grader passes."""


def _text_of(content: Any) -> Any:
    """Return the text of a message's content, in any form that OpenAI accepts."""
    if isinstance(content, list):
        return "".join(str(_text_of(part)) for part in content)
    if isinstance(content, dict):
        if content.get("type") not in ("input_text", "output_text", "text") or not isinstance(content.get("text"), str):
            raise PydanticCustomError("openai_grader", "must be text: images and audio cannot be shown to the model")
        return content["text"]
    return content


class InputMessage(BaseModel):
    """A message to the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[Template, BeforeValidator(_text_of)]
    type: Literal["message"] | None = None


class SamplingParameters(BaseModel):
    """Sampling parameters of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = None
    top_p: Number | None = None
    temperature: Number | None = None
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Another name of max_completions_tokens, which users know from OpenAI's chat API."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Its older name there."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    @model_validator(mode="after")
    def _has_one_limit(self) -> SamplingParameters:
        names = ("max_completions_tokens", "max_completion_tokens", "max_tokens")
        stated = [name for name in names if getattr(self, name) is not None]
        if len(stated) > 1:
            raise PydanticCustomError(
                "openai_grader", "{names} are the same: set one", {"names": " and ".join(reversed(stated))}
            )
        return self


class _ModelGrader(_Grader):
    @property
    def asks_model(self) -> bool:
        """Whether the grader asks a model: always."""
        return True

    input: Annotated[list[InputMessage], Field(min_length=1, max_length=64)]
    """Messages to the model."""
    model: Annotated[str, Field(max_length=256)]
    """Name of the model at OpenAI. The model that is asked here is stated beside the grader."""
    sampling_params: SamplingParameters = SamplingParameters()
    """Sampling parameters of the model."""


class ScoreModel(_ModelGrader):
    """Scores with the number that a model returns."""

    type: Literal["score_model"]
    range: Annotated[list[Number], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    """Smallest and largest score."""
    pass_threshold: Number | None = None
    """Smallest score with which the grader passes."""

    @field_validator("range")
    @classmethod
    def _ascends(cls, bounds: list[float]) -> list[float]:
        if bounds[0] >= bounds[1]:
            raise PydanticCustomError("openai_grader", "must be the smallest and the largest score, in this order")
        return bounds


class LabelModel(_ModelGrader):
    """Scores 1 if a model returns one of the passing labels, and 0 otherwise."""

    type: Literal["label_model"]
    labels: Annotated[list[str], Field(min_length=1, max_length=256)]
    """Labels that the model chooses from."""
    passing_labels: Annotated[list[str], Field(min_length=1, max_length=256)]
    """Labels that score 1."""

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
    """Scores with a formula over the scores of several graders."""

    type: Literal["multi"]
    graders: Annotated[dict[str, SingleGrader], Field(min_length=1, max_length=32)]
    """The graders, by their names in the formula."""
    calculate_output: Annotated[str, Field(min_length=1, max_length=4096)]
    """The formula, which must satisfy `rft_api.openai_formula`."""
    pass_threshold: Number | None = None
    """Smallest score with which the grader passes."""

    @field_validator("graders", mode="before")
    @classmethod
    def _by_name(cls, graders: Any) -> Any:
        """Return the graders by their names; OpenAI's reference also shows them as a list."""
        if isinstance(graders, dict) and isinstance(graders.get("type"), str):
            graders = [graders]
        if not isinstance(graders, list) or not all(isinstance(part, dict) for part in graders):
            return graders
        names = [part.get("name") for part in graders]
        if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise PydanticCustomError("openai_grader", "each grader of the list needs a name of its own")
        return dict(zip(names, graders, strict=True))

    @field_validator("graders")
    @classmethod
    def _can_be_named(cls, graders: dict[str, Any]) -> dict[str, Any]:
        for key in graders:
            if not key.isidentifier() or key in FUNCTIONS or component_name(key) != key:
                raise PydanticCustomError("openai_grader", "{key} cannot be used as a name in a formula", {"key": key})
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
    """Yield the graders of a multi grader, with their locations in it. Any other grader is its own only part."""
    if isinstance(grader, Multi):
        for key, part in grader.graders.items():
            yield ("graders", key), part
    else:
        yield (), grader


def single_graders(grader: AnyGrader) -> Iterator[tuple[str, AnyGrader]]:
    """Yield the graders of a multi grader, with their keys. The key of any other grader is its name, or its type."""
    for location, part in grader_parts(grader):
        yield str(location[-1]) if location else part.name if part.name.strip() else part.type, part


def asks_model(grader: AnyGrader) -> bool:
    """Return whether any part of the grader asks a model, for an answer or for embeddings."""
    return any(part.asks_model for _, part in single_graders(grader))


def asks_chat_model(grader: AnyGrader) -> bool:
    """Return whether any part of the grader asks a model for an answer."""
    return any(isinstance(part, (ScoreModel, LabelModel)) for _, part in single_graders(grader))


def asks_for_embeddings(grader: AnyGrader) -> bool:
    """Return whether any part of the grader asks a model for embeddings."""
    return any(isinstance(part, TextSimilarity) and part.asks_model for _, part in single_graders(grader))
