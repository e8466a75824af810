"""Turns errors of pydantic into messages for users, each with its location in the document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from rft_api.model import Location, RuleViolations, Violation


def violations(invalid: ValidationError, document: Any, model: type[BaseModel]) -> Iterator[Violation]:
    """The violations of a document's model, each with its location from the root of the document.

    Args:
        invalid: the error that the validation of the document raised.
        document: the document.
        model: the model of the document, whose field names are suggested for unknown fields.
    """
    for detail in invalid.errors():
        location = _in_document(document, tuple(detail["loc"]), detail["type"])
        error = (detail.get("ctx") or {}).get("error")
        if isinstance(error, RuleViolations):
            for violation in error.violations:
                yield replace(violation, location=(*location, *violation.location))
        else:
            yield Violation(_message(detail, model), location)


def _in_document(document: Any, location: Location, kind: str) -> Location:
    """The location without the tags of unions, which pydantic puts between the names of fields."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        missing = kind == "missing" and index == len(location) - 1
        if isinstance(document, dict) and part not in document and not missing:
            continue
        kept.append(part)
        try:
            document = document[part]
        except (LookupError, TypeError):
            document = None
    return tuple(kept)


def _message(detail: Any, model: type[BaseModel]) -> str:
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        expected = detail["ctx"].get("expected_tags")
        return "needs a type" + (f": one of {expected}" if expected else "")
    if detail["type"] == "model_type":
        return "must be a mapping of fields"
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(str(detail["loc"][-1]), _field_names(model, detail["loc"][:-1]), n=1)
        return "unknown field" + (f"; did you mean {close[0]}?" if close else "")
    message = str(detail["msg"])
    return message[0].lower() + message[1:]


def _field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Names that could stand at a place: the fields of the model found by walking down the annotations."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        inner = next((f for n, f in current.model_fields.items() if part in (f.alias, n)), None)
        model_inside = _model_in(inner.annotation) if inner is not None else None
        if model_inside is None:
            return []
        current = model_inside
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if model := _model_in(argument):
            return model
    return None
