"""The base of every schema: strict pydantic models whose cross-field rules carry both CEL and Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

Json = dict[str, Any]
"""A JSON object, as `json.loads` returns it."""

Location = tuple[int | str, ...]
"""Location of a field in a document: names of fields and positions in lists, from the outermost to the innermost."""


@dataclass(frozen=True)
class Rule:
    """A rule across fields, in CEL and in Python.

    `cel` is what the API server evaluates (`x-kubernetes-validations`), `holds` is the same predicate on the
    validated model, `message` is what the user reads in both places.

    The API server evaluates the rules at each write of a status, too, and copies the schemas of all fields of an object
    whenever a rule looks at one of them (`Structural.Properties` of Kubernetes 1.35). So a rule first looks at what is
    seldom set, at as few fields as possible, and asks `has` only of fields without a default. Rules about the same
    fields share a look at them: `unless`.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    places: Callable[[Any], Sequence[Location]] = lambda _: [()]
    """Locations of the fields of a model that break the rule, from the model. By default, the model itself."""
    field: str = ""
    """Field whose schema has the rule in CEL, where `self` is its value; empty for the schema of the model."""
    unless: str = ""
    """What makes the rule hold whatever `cel` says, in CEL. The API server gets the rules of a model that state the
    same as one rule: it looks at these fields once, and at others only where this is false."""


@dataclass(frozen=True)
class Violation:
    """A problem of a document, with its location."""

    message: str
    location: Location = ()
    """Location of the field, from the model that reports the problem or from the root of the document."""
    text_line: int | None = None
    """Line in the text of the field, counted from 1."""

    def __str__(self) -> str:
        text = self.message if self.text_line is None else f"{self.message} (line {self.text_line} of the text)"
        return f"{format_location(self.location)}: {text}" if self.location else text


class RuleViolations(ValueError):
    """Raised if rules of a model do not hold, with every violation, not only the first."""

    def __init__(self, violations: Sequence[Violation]):
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


def format_location(location: Location) -> str:
    """Return a location as people write it, such as `spec.data.train[0].uri`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


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
        broken = [rule for rule in self.rules if not rule.holds(self)]
        if broken:
            raise RuleViolations([Violation(rule.message, place) for rule in broken for place in rule.places(self)])
        return self

    def to_json_object(self) -> Json:
        """Return the model as Kubernetes would store it: camelCase keys, fields without a value left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def camel(name: str) -> str:
    """Return a field's name as manifests spell it."""
    return to_camel(name)
