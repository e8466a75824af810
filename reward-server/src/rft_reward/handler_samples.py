"""Samples in the forms in which handlers of users read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HandlerForm:
    """What a handler expects of a sample."""

    text_in_object: bool = False
    """Whether a reference answer that is a text is passed as {"text": ...}."""
    assistant_role: str | None = None
    """The role of the completion; None leaves that of the request."""


def handler_sample(sample: dict[str, Any], form: HandlerForm, *, lift_metadata: bool) -> dict[str, Any]:
    """Return a sample for a handler.

    Args:
        sample: the sample of the request.
        form: what the handler expects.
        lift_metadata: whether the further fields of the data row are also at the top level of the sample, where
            handlers for Amazon Nova read them. A field of the sample itself is never replaced.
    """
    metadata = sample.get("metadata")
    if form.assistant_role is not None:
        *conversation, completion = sample["messages"]
        sample = {**sample, "messages": [*conversation, {**completion, "role": form.assistant_role}]}
    if form.text_in_object:
        sample = {**sample, "reference_answer": _object(sample.get("reference_answer"))}
        if metadata and "reference_answer" in metadata:
            metadata = {**metadata, "reference_answer": _object(metadata["reference_answer"])}
            sample["metadata"] = metadata
    return {**metadata, **sample} if lift_metadata and metadata else sample


def _object(answer: Any) -> Any:
    return {"text": answer} if isinstance(answer, str) else answer
