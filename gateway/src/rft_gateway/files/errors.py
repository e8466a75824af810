"""Errors of files and uploads, in OpenAI's form."""

from __future__ import annotations

from rft_api.foreign.sizes import format_size
from rft_gateway.errors import INVALID_VALUE, ApiError

_LONGEST_NAME = 64


def wrong(param: str, message: str, code: str = INVALID_VALUE) -> ApiError:
    """Return the error for a field or parameter that is wrong. Both texts may quote what a client has sent."""
    return ApiError(400, _text(message), param=_text(param), code=code)


def no_file(name: str) -> ApiError:
    """Return the error for a file that does not exist, or that belongs to another namespace: both look the same."""
    return ApiError(404, _text(f"No such File object: {name[:_LONGEST_NAME]}"), param="id", code="file_not_found")


def no_upload(name: str) -> ApiError:
    """Return the same for an upload."""
    return ApiError(404, _text(f"No such Upload object: {name[:_LONGEST_NAME]}"), param="id", code="upload_not_found")


def too_large(param: str, limit: int) -> ApiError:
    """Return the error for content that is larger than its limit."""
    message = f"{param} is larger than {format_size(limit)}, the largest that this gateway takes."
    return ApiError(413, message, param=param, code="file_too_large")


def unavailable() -> ApiError:
    """Return the error while the database or the store of files cannot be used."""
    message = "Files cannot be read or written at the moment. Please try again."
    return ApiError(503, message, code="files_unavailable", headers={"retry-after": "1"})


def _text(text: str) -> str:
    """Return a text as JSON can have it: bytes that are not UTF-8 are halves of surrogate pairs in heads."""
    return text.encode("utf-8", "replace").decode()
