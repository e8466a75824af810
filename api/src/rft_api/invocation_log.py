"""Which records of Amazon Bedrock's model invocation logs a job uses, and the report of those that it has used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.model import Model, Rule
from rft_api.quantities import Integer, exactly_one_of

LeftOut = Literal[
    "OtherTime",
    "OtherModel",
    "Filtered",
    "OtherFeedback",
    "ErrorResponse",
    "BodyMissing",
    "UnknownBody",
    "NotText",
    "NoPrompt",
    "NoAnswer",
    "Duplicate",
    "ChatTemplate",
    "Unreadable",
]
"""Reasons for which a record is not used; docs/data.md explains them."""


def parse_timestamp(text: str) -> datetime:
    """Parse a timestamp of RFC 3339; one without a zone is in UTC.

    Raises:
        ValueError: when it is none.
    """
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


def _as_text(value: Any) -> Any:
    # PyYAML makes unquoted timestamps datetimes; kubectl leaves them as they are.
    return value.isoformat() if isinstance(value, datetime) else value


def _check_timestamp(text: str) -> str:
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    raise PydanticCustomError("timestamp", "must look like 2026-01-31T12:00:00Z")


_Timestamp = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=64, json_schema_extra={"format": "date-time"}),
    AfterValidator(_check_timestamp),
]
_OneEntry = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=256)],
        Annotated[str, Field(max_length=256)],
    ],
    Field(min_length=1, max_length=1),
]


class MetadataFilter(Model):
    """A condition on the metadata of a request, which the application has sent as requestMetadata."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.equals) || has(self.notEquals)",
            message="set equals, notEquals or both",
            holds=lambda one: one.equals is not None or one.not_equals is not None,
        ),
    )

    equals: _OneEntry | None = None
    """A key and the value that it must have."""
    not_equals: _OneEntry | None = None
    """A key and a value that it must not have. Requests without the key also satisfy the condition."""


class MetadataFilters(Model):
    """Conditions on the metadata of a request, as Amazon Bedrock's requestMetadataFilters."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("equals", "not_equals", "and_all", "or_all"),)

    equals: _OneEntry | None = None
    """A key and the value that it must have."""
    not_equals: _OneEntry | None = None
    """A key and a value that it must not have. Requests without the key also satisfy the condition."""
    and_all: Annotated[list[MetadataFilter], Field(min_length=1, max_length=16)] | None = None
    """Conditions that must all hold."""
    or_all: Annotated[list[MetadataFilter], Field(min_length=1, max_length=16)] | None = None
    """Conditions of which at least one must hold."""


class FeedbackFilter(Model):
    """A condition on what people have said about answers, at the gateway's /v1/feedback."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.rating) || size(self.labels) > 0",
            message="set rating, labels or both",
            holds=lambda one: one.rating is not None or bool(one.labels),
        ),
    )

    rating: Literal["Up", "Down"] | None = None
    """Rating of the answers whose records are used. Up stands for answers that somebody has liked or corrected, Down
    for answers that somebody has not liked."""
    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=64)] = []
    """Labels of the feedback. A record is used if its feedback has at least one of these labels. By default the labels
    do not matter."""


class RedactionPattern(Model):
    """A pattern of text that is replaced."""

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    """Regular expression in the syntax of RE2, which has no look-around and no back-references."""
    replacement: Annotated[str, Field(max_length=256)] = "[redacted]"
    """Text that replaces a match; \\1 stands for the first group of the pattern."""


class Redaction(Model):
    """Text that is removed from prompts, answers and metadata before they are used or recorded."""

    patterns: Annotated[list[RedactionPattern], Field(min_length=1, max_length=64)]
    """Patterns that are replaced, one after the other."""


class InvocationLog(Model):
    """Which records of invocation logs are used, and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.from) || !has(self.to) || self.from < self.to",
            message="from must be before to",
            holds=lambda log: (
                log.from_ is None or log.to is None or parse_timestamp(log.from_) < parse_timestamp(log.to)
            ),
        ),
    )

    reference: Literal["LoggedAnswer", "None"] = "None"
    """Reference answer of the prompts. LoggedAnswer uses the logged completion, or the corrected answer in the feedback
    if there is one; records without a complete answer are left out. With None, prompts have no reference answer."""
    model_ids: Annotated[list[Annotated[str, Field(min_length=1, max_length=2048)]], Field(max_length=64)] = []
    """Models whose records are used. A model is named by its modelId, or by the part of its ARN after the last slash.
    By default the records of all models are used."""
    from_: Annotated[_Timestamp | None, Field(alias="from")] = None
    """Start of the period whose records are used. By default the period begins with the oldest record."""
    to: _Timestamp | None = None
    """End of the period whose records are used. Records of this time and later are left out. By default the period ends
    with the newest record."""
    request_metadata_filters: MetadataFilters | None = None
    """Conditions on the metadata of a request. Only records that satisfy them are used."""
    feedback: FeedbackFilter | None = None
    """A condition on what people have said about answers. Only records that satisfy it are used."""
    redact: Redaction | None = None
    """Text that is removed before anything is used or recorded."""
    limit: Annotated[Integer, Field(ge=1, le=10000000)] | None = None
    """Number of records after which reading stops. By default all records are read."""


class InvocationLogReport(Model):
    """How many records of invocation logs were used, and why the others were not."""

    records: int
    """Number of records that were read."""
    taken: int
    """Number of records that became prompts or conversations."""
    left_out: dict[LeftOut, int] = {}
    """Number of the other records, by reason."""
    unreadable: list[str] = []
    """The first lines that could not be read, as FILE:LINE: REASON."""
    limited: bool = False
    """Whether reading stopped at the limit, so that there may be more records."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        text = f"{self.taken} of {self.records} records taken"
        text += f"; left out: {reasons}" if reasons else ""
        text += "; stopped at the limit" if self.limited else ""
        return text + (f" ({'; '.join(self.unreadable)})" if self.unreadable else "")
