"""What people have said about answers: a line of feedback, as the gateway keeps it beside the log of a model."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FEEDBACK_SCHEMA: Final = "ModelInvocationFeedback"
"""The `schemaType` of a line."""
Rating = Literal["Up", "Down"]
LONGEST_CORRECTION: Final = 1 << 20
"""Characters of a corrected answer."""


class Feedback(BaseModel):
    """A line. Of several about one request, the latest counts; fields that a reader does not know are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True)

    schema_type: Literal["ModelInvocationFeedback"] = FEEDBACK_SCHEMA
    schema_version: Literal["1.0"] = "1.0"
    timestamp: Annotated[str, Field(max_length=64)]
    """When it was given, in UTC."""
    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    """The `requestId` of the conversation's record."""
    model_id: str
    """The `modelId` of the conversation's record."""
    rating: Rating | None = None
    """Whether the answer was liked."""
    label: str | None = None
    """A word of the application for what it is, such as wrong-amount."""
    comment: str | None = None
    """What somebody has written about it."""
    corrected_answer: str | None = None
    """The answer that should have been given."""
