"""Samples in the forms in which handlers of users read them."""

from __future__ import annotations

from typing import Any


def handler_sample(sample: dict[str, Any], text_in_object: bool, *, lift_metadata: bool) -> dict[str, Any]:
    """A sample for a handler.

    Args:
        sample: the sample of the request.
        text_in_object: whether a reference answer that is a text is passed as {"text": ...}.
        lift_metadata: whether the further fields of the data row are also at the top level of the sample, where
            handlers for Amazon Nova read them. A field of the sample itself is never replaced.
    """
    metadata = sample.get("metadata")
    if text_in_object:
        sample = {**sample, "reference_answer": _object(sample.get("reference_answer"))}
        if metadata and "reference_answer" in metadata:
            metadata = {**metadata, "reference_answer": _object(metadata["reference_answer"])}
            sample["metadata"] = metadata
    return {**metadata, **sample} if lift_metadata and metadata else sample


def _object(answer: Any) -> Any:
    return {"text": answer} if isinstance(answer, str) else answer
