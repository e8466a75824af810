"""The base of every schema: strict pydantic models whose cross-field rules carry both CEL and Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

Json = dict[str, Any]
"""A JSON object, as `json.loads` returns it."""

Location = tuple[int | str, ...]
"""The place of a field in a document: names of fields and positions in lists, from the outermost on."""


@dataclass(frozen=True)
class Rule:
    """A rule across fields, in CEL and in Python.

    `cel` is what the API server evaluates (`x-kubernetes-validations`), `holds` is the same predicate on the
    validated model, `message` is what the user reads in both places.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


class RuleViolations(ValueError):
    """Raised when rules of a model do not hold; carries every message, not only the first."""

    def __init__(self, messages: list[str]):
        super().__init__("; ".join(messages))
        self.messages = messages


class Model(BaseModel):
    """A schema of the project: camelCase in JSON, unknown fields refused, field docstrings become descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        use_attribute_docstrings=True,
        # CRDs distinguish integers, booleans and strings: so do we.
        strict=False,
        # A program validates a few of the models: the others need not be built at its start.
        defer_build=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Model:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise RuleViolations(broken)
        return self

    def to_json_object(self) -> Json:
        """The model as Kubernetes would store it: camelCase keys, fields without a value left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def camel(name: str) -> str:
    """A field's name as manifests spell it."""
    return to_camel(name)
