"""`POST /v1/feedback`: what people say about an answer, kept beside the conversations of its model."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rft_api.conversation_logs import FEEDBACK_FOLDER
from rft_api.feedback import LONGEST_CORRECTION, Feedback
from rft_api.gateway_routes import Route
from rft_api.model import format_location
from rft_api.violations import violations
from rft_gateway.errors import ApiError
from rft_gateway.keys import Key
from rft_gateway.ledger import Ledger, LedgerError
from rft_gateway.logs import Conversations, LineTooLarge, line, redacted, timestamp

FEEDBACK = "/v1/feedback"
_ID = re.compile(r"(?:chatcmpl-|cmpl-)?([0-9a-f]{32})")
"""The id of an answer of chat or completions, or the header x-request-id, which is a part of it."""
_LONGEST_COMMENT = 16 << 10
_RATINGS: dict[str | None, Literal["Up", "Down"]] = {"up": "Up", "down": "Down"}


class FeedbackRequest(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    id: Annotated[str, Field(max_length=128)]
    """The id of an answer, or its header x-request-id."""
    rating: Literal["up", "down"] | None = None
    """Whether the answer was liked."""
    label: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A word of the application for what it is, by which jobs can choose."""
    comment: Annotated[str, Field(min_length=1, max_length=_LONGEST_COMMENT)] | None = None
    """What somebody has written about it."""
    corrected_answer: Annotated[str, Field(min_length=1, max_length=LONGEST_CORRECTION)] | None = None
    """The answer that should have been given."""


def read_feedback(document: dict[str, Any]) -> FeedbackRequest:
    """Return the feedback in the body of a request.

    Raises:
        ApiError: 400 when it is none.
    """
    try:
        feedback = FeedbackRequest.model_validate(document, strict=True)
    except ValidationError as invalid:
        first = next(violations(invalid, document, FeedbackRequest))
        raise ApiError(400, str(first), param=format_location(first.location) or None) from None
    if feedback.model_dump(exclude={"id"}, exclude_none=True):
        return feedback
    raise ApiError(400, "say something about the answer: rating, label, comment or corrected_answer")


async def find_model(feedback: FeedbackRequest, key: Key, ledger: Ledger) -> tuple[str, str]:
    """Return the id of the request that feedback is about, and the name of its model.

    Raises:
        ApiError: 404 when the key's namespace has no such request, 503 when the ledger cannot be read.
    """
    match = _ID.fullmatch(feedback.id)
    try:
        model = await ledger.model_of(match[1], key.namespace) if match else None
    except LedgerError:
        message = "The request cannot be looked up at the moment. Please try again."
        raise ApiError(503, message, code="ledger_unavailable", headers={"retry-after": "1"}) from None
    if match is None or model is None or (key.models and model not in key.models):
        message = "There is no answer with this id. It is the id of a completion, or the header x-request-id."
        raise ApiError(404, message, param="id", code="request_not_found")
    return match[1], model


async def keep_feedback(
    feedback: FeedbackRequest, request_id: str, route: Route, conversations: Conversations
) -> dict[str, object]:
    """Keep feedback, and return the answer to whoever gave it: it is on the disk then.

    Raises:
        ApiError: 400 when the model has no log or the feedback is too long once it is redacted, 503 when it cannot be
            kept.
    """
    if route.logs is None:
        message = f"No conversations of the model `{route.model}` are kept, so that feedback would be of no use."
        raise ApiError(400, message, param="id", code="model_without_logs")
    time = datetime.now(UTC)
    reason = await conversations.append(
        route, FEEDBACK_FOLDER, partial(_feedback_line, feedback, request_id, route, time)
    )
    if reason == LineTooLarge.RESULT:
        raise ApiError(400, "The feedback is too long once it is redacted.", code="feedback_too_long")
    if reason is not None:
        message = "Feedback cannot be kept at the moment. Please try again."
        raise ApiError(503, message, code="log_unavailable", headers={"retry-after": "10"})
    return {
        "object": "feedback",
        "created": int(time.timestamp()),
        "model": route.model,
        **feedback.model_dump(exclude_none=True),
    }


def _feedback_line(feedback: FeedbackRequest, request_id: str, route: Route, time: datetime) -> bytes:
    texts = redacted(feedback.model_dump(include={"label", "comment", "corrected_answer"}), route)
    record = Feedback(
        timestamp=timestamp(time),
        request_id=request_id,
        model_id=route.model,
        rating=_RATINGS.get(feedback.rating),
        **texts,
    )
    return line(record.model_dump(by_alias=True, exclude_none=True))
