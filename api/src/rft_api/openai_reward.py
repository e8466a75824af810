"""The part of a manifest that holds a grader in OpenAI's JSON format, and the models that it asks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rft_api.model import Model, Rule, RuleViolations, Violation
from rft_api.openai_grader import AnyGrader, asks_chat_model, asks_for_embeddings
from rft_api.remote_reward import JudgeLimits, JudgeModel
from rft_api.requirements import Requirements

OnError = Literal["Zero", "Unscored"]
"""What a completion scores for which the code raises an exception: 0, or nothing. Either way it is counted."""

_OTHER_GRADERS = {
    "lambda": "a grader of type lambda, as Amazon Bedrock has it, is spec.lambda here: set its functionArn",
    "endpoint": "a grader of type endpoint, as Azure OpenAI has it, is spec.http here: set the url of your server",
}
"""Graders that other services take in the same place, by their type, with what to write instead."""


class OpenAIReward(Model):
    """A grader in the JSON format of OpenAI."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.embeddings) || has(self.embeddings.url)",
            message="embeddings come from an OpenAI-compatible API: set url and name",
            holds=lambda reward: reward.embeddings is None or reward.embeddings.url is not None,
        ),
    )

    grader: Annotated[AnyGrader, WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
    """The grader, as OpenAI documents it."""
    requirements: Requirements | None = None
    """Packages that graders of type python import, as in python.requirements."""
    model: JudgeModel | None = None
    """The model that graders of type score_model and label_model ask, in place of the OpenAI model that they name."""
    embeddings: JudgeModel | None = None
    """The embedding model, at an OpenAI-compatible API, that graders of type text_similarity with the metric cosine
    ask."""
    limits: JudgeLimits = JudgeLimits()
    """Limits on the requests to each of the models."""
    on_error: OnError | None = None
    """What a grader of type python scores if its code raises an exception, or returns something else than a number: 0
    (Zero, the default, as at OpenAI), or nothing (Unscored). Time limits and memory limits never score 0."""

    @field_validator("grader", mode="before")
    @classmethod
    def _is_of_openai(cls, grader: Any) -> Any:
        kind = grader.get("type") if isinstance(grader, dict) else None
        if isinstance(kind, str) and kind in _OTHER_GRADERS:
            raise PydanticCustomError("openai_grader", "{advice}", {"advice": _OTHER_GRADERS[kind]})
        return grader

    @model_validator(mode="after")
    def _has_model(self) -> OpenAIReward:
        # No rule: CEL cannot look into a grader.
        violations = []
        if asks_chat_model(self.grader) and self.model is None:
            violations.append(Violation("set model: score_model and label_model ask one"))
        if asks_for_embeddings(self.grader) and self.embeddings is None:
            violations.append(Violation("set embeddings: text_similarity with cosine asks a model for them"))
        if violations:
            raise RuleViolations(violations)
        return self
