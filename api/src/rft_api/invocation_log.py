"""What a job takes from Amazon Bedrock's model invocation logs, and the report of what it took."""

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
"""Why a record is not used; docs/data.md explains each."""


def moment(text: str) -> datetime:
    """The moment that a timestamp of RFC 3339 names; one without a zone is in UTC.

    Raises:
        ValueError: when it is none.
    """
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed


def _as_text(value: Any) -> Any:
    # PyYAML makes unquoted timestamps datetimes; kubectl leaves them as they are.
    return value.isoformat() if isinstance(value, datetime) else value


def _check_moment(text: str) -> str:
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    raise PydanticCustomError("moment", "must look like 2026-01-31T12:00:00Z")


_Moment = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=64, json_schema_extra={"format": "date-time"}),
    AfterValidator(_check_moment),
]
_OneEntry = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=256)],
        Annotated[str, Field(max_length=256)],
    ],
    Field(min_length=1, max_length=1),
]


class MetadataFilter(Model):
    """A condition on the metadata that an application sent with its request (requestMetadata)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.equals) || has(self.notEquals)",
            message="set equals, notEquals or both",
            holds=lambda one: one.equals is not None or one.not_equals is not None,
        ),
    )

    equals: _OneEntry | None = None
    """A key and the value that it has."""
    not_equals: _OneEntry | None = None
    """A key and a value that it does not have; holds also for requests without the key."""


class MetadataFilters(Model):
    """Conditions on the metadata of a request, as Amazon Bedrock's requestMetadataFilters."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("equals", "not_equals", "and_all", "or_all"),)

    equals: _OneEntry | None = None
    """A key and the value that it has."""
    not_equals: _OneEntry | None = None
    """A key and a value that it does not have; holds also for requests without the key."""
    and_all: Annotated[list[MetadataFilter], Field(min_length=1, max_length=16)] | None = None
    """Conditions that all hold."""
    or_all: Annotated[list[MetadataFilter], Field(min_length=1, max_length=16)] | None = None
    """Conditions of which one holds."""


class RedactionPattern(Model):
    """Text that is replaced."""

    pattern: Annotated[str, Field(min_length=1, max_length=1024)]
    """Regular expression in RE2's syntax, which has no look-around and no back-references."""
    replacement: Annotated[str, Field(max_length=256)] = "[redacted]"
    """What stands in its place; \\1 is the pattern's first group."""


class Redaction(Model):
    """What is removed from the texts before anything else sees them."""

    patterns: Annotated[list[RedactionPattern], Field(min_length=1, max_length=64)]
    """Replacements, one after the other."""


class InvocationLog(Model):
    """Which records of invocation logs are taken, and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.from) || !has(self.to) || self.from < self.to",
            message="from must be before to",
            holds=lambda log: log.from_ is None or log.to is None or moment(log.from_) < moment(log.to),
        ),
    )

    reference: Literal["LoggedAnswer", "None"] = "None"
    """LoggedAnswer: the logged completion becomes the prompt's reference answer, and records without a whole one are
    left out."""
    model_ids: Annotated[list[Annotated[str, Field(min_length=1, max_length=2048)]], Field(max_length=64)] = []
    """Models whose records are taken, as modelId names them, or the end of an ARN after its last slash; all when
    empty."""
    from_: Annotated[_Moment | None, Field(alias="from")] = None
    """First moment whose records are taken."""
    to: _Moment | None = None
    """First moment whose records are not taken any more."""
    request_metadata_filters: MetadataFilters | None = None
    """Conditions on the metadata of the request."""
    redact: Redaction | None = None
    """What is removed from the texts."""
    limit: Annotated[Integer, Field(ge=1, le=10000000)] | None = None
    """Records after which reading stops; all when absent."""


class InvocationLogReport(Model):
    """What was taken from invocation logs, and why the rest was not."""

    records: int
    """Records that were read."""
    taken: int
    """Records that became prompts or conversations."""
    left_out: dict[LeftOut, int] = {}
    """The others, by reason."""
    unreadable: list[str] = []
    """The first unreadable lines, as FILE:LINE: REASON."""
    limited: bool = False
    """Whether reading stopped at the limit, so that there may be more."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        text = f"{self.taken} of {self.records} records taken"
        text += f"; left out: {reasons}" if reasons else ""
        text += "; stopped at the limit" if self.limited else ""
        return text + (f" ({'; '.join(self.unreadable)})" if self.unreadable else "")
