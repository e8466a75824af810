"""Reads what requests for files and uploads state; a wrong field is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rft_api.foreign.sizes import format_size
from rft_gateway.errors import MISSING_PARAMETER, UNKNOWN_PARAMETER, invalid_document
from rft_gateway.files.errors import wrong
from rft_gateway.files.limits import LONGEST_LIFE, LONGEST_LIST, NAME_BYTES, PARTS, SHORTEST_LIFE

PURPOSE = "fine-tune"
ANCHOR_FIELD, SECONDS_FIELD = "expires_after[anchor]", "expires_after[seconds]"
FILE_FIELDS = ("purpose", ANCHOR_FIELD, SECONDS_FIELD)
"""Fields of the form of a file, beside the file."""
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")
_ANCHOR = "created_at"
_LIST_PARAMETERS = ("after", "limit", "order", "purpose")
_LONGEST_PURPOSE = 64

Document = TypeVar("Document", bound=BaseModel)


class ExpiresAfter(BaseModel):
    """When a file expires."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    anchor: Literal["created_at"]
    """What the time begins with."""
    seconds: Annotated[int, Field(ge=SHORTEST_LIFE, le=LONGEST_LIFE)]
    """The time."""


class UploadRequest(BaseModel):
    """The body of a request that begins an upload."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    bytes: Annotated[int, Field(ge=1)]
    """Size of the file."""
    filename: str
    """Name of the file."""
    mime_type: Annotated[str, Field(max_length=NAME_BYTES)]
    """Type of the file. JSONL has several names, and the content is looked at: so any will do."""
    purpose: str
    """What the file is for."""
    expires_after: ExpiresAfter | None = None
    """When the file expires."""


class CompleteRequest(BaseModel):
    """The body of a request that completes an upload."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    part_ids: Annotated[list[Annotated[str, Field(max_length=NAME_BYTES)]], Field(min_length=1, max_length=PARTS)]
    """The parts in their order."""
    md5: str | None = None
    """Digest of the file, in hexadecimal digits."""


def read_document(document: dict[str, Any], model: type[Document]) -> Document:
    """Return the body of a request in JSON.

    Raises:
        ApiError: 400 when it is none of this kind; it names the field.
    """
    try:
        return model.model_validate(document, strict=True)
    except ValidationError as invalid:
        raise invalid_document(invalid, document, model) from None


def check_purpose(purpose: str | None) -> None:
    """Raise ApiError (400) for a purpose other than fine-tuning."""
    if purpose is None:
        raise wrong("purpose", "purpose is missing: it must be fine-tune", MISSING_PARAMETER)
    if purpose != PURPOSE:
        shortened = purpose[:_LONGEST_PURPOSE]
        raise wrong("purpose", f"purpose must be {PURPOSE}, not {shortened!r}: this gateway has no other use for files")


def check_filename(param: str, name: str | None) -> str:
    """Return the name of a file.

    Raises:
        ApiError: 400 when there is none, or it is too long or has characters that cannot be seen.
    """
    if not name:
        raise wrong(param, f"{param}: the file has no name")
    if not name.isprintable() or len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES:
        raise wrong(param, f"{param}: a name has at most {NAME_BYTES} bytes, all of which can be seen")
    return name


def check_size(size: int, limit: int) -> None:
    """Raise ApiError (400) for a declared size above the limit in bytes."""
    if size > limit:
        raise wrong("bytes", f"bytes: this gateway takes files of {format_size(limit)} at most", code="file_too_large")


def read_expiry(fields: Mapping[str, str]) -> int | None:
    """Return after how many seconds the file of a form expires; None when it stays.

    Raises:
        ApiError: 400 when that is wrong.
    """
    anchor, seconds = fields.get(ANCHOR_FIELD), fields.get(SECONDS_FIELD)
    if anchor is None and seconds is None:
        return None
    if anchor != _ANCHOR:
        raise wrong("expires_after", f"{ANCHOR_FIELD} must be {_ANCHOR}")
    text = seconds or ""
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not is_number or not SHORTEST_LIFE <= int(text) <= LONGEST_LIFE:
        text = f"{SECONDS_FIELD} must be a whole number from {SHORTEST_LIFE} to {LONGEST_LIFE}"
        raise wrong("expires_after", text)
    return int(text)


@dataclass(frozen=True)
class ListQuestion:
    """The parameters of a request for a list."""

    after: str | None
    limit: int
    is_descending: bool
    purpose: str | None


def read_list_question(query: MultiMapping[str]) -> ListQuestion:
    """Return what a request for a list asks for.

    Raises:
        ApiError: 400 for a parameter that is wrong or unknown.
    """
    for name in query:
        if name not in _LIST_PARAMETERS:
            text = f"the parameter {name[:NAME_BYTES]} is not supported here; there are {', '.join(_LIST_PARAMETERS)}"
            raise wrong(name[:NAME_BYTES], text, UNKNOWN_PARAMETER)
    after, purpose = query.get("after"), query.get("purpose")
    if after is not None and not FILE_ID.fullmatch(after):
        raise wrong("after", "after must be the id of a file")
    limit = query.get("limit", str(LONGEST_LIST))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 6 and 1 <= int(limit) <= LONGEST_LIST):
        raise wrong("limit", f"limit must be a whole number from 1 to {LONGEST_LIST}")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise wrong("order", "order must be asc or desc")
    if purpose is not None and not (purpose.isprintable() and len(purpose) <= _LONGEST_PURPOSE):
        raise wrong("purpose", "purpose is no purpose of a file")
    return ListQuestion(after, int(limit), order == "desc", purpose)
