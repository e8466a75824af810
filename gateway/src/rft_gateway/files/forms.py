"""Reads forms with a file (multipart/form-data) while they come; the file goes on in pieces and is never held whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from rft_gateway.bodies import expects_continue, send_continue
from rft_gateway.errors import MISSING_PARAMETER, UNKNOWN_PARAMETER, ApiError
from rft_gateway.files.errors import too_large, wrong
from rft_gateway.files.limits import ENVELOPE_BYTES, FIELD_BYTES, FIELDS, SILENCE_SECONDS, TRANSFER_SECONDS

_PIECE_BYTES = 1 << 20
"""What is written at once."""
_CHUNK_BYTES = 1 << 18
_TYPE = "multipart/form-data"

Write = Callable[[bytes], Awaitable[None]]
_Result = TypeVar("_Result")


@dataclass
class Form:
    """A form, without the content of its file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """The name of its file, if that has one."""
    has_file: bool = False


async def read_form(
    request: web.BaseRequest, file_field: str, names: Collection[str], limit: int, write: Write
) -> Form:
    """Read a form. When something in it is wrong, the rest is read all the same: clients then read the answer.

    Args:
        request: its body is the form.
        file_field: name of the field with the file.
        names: names of the other fields.
        limit: largest size of the file in bytes.
        write: takes the next bytes of the file.

    Raises:
        ApiError: 400 when it is no such form, 413 when it is too large, 408 when it takes too long; whatever `write`
            raises.
    """
    if request.content_type != _TYPE:
        message = f"The body must be {_TYPE}, with the file in the field {file_field}."
        raise wrong(file_field, message, code="invalid_form")
    if (request.content_length or 0) > limit + ENVELOPE_BYTES:
        raise too_large(file_field, limit)
    if expects_continue(request):
        await send_continue(request)
    try:
        async with asyncio.timeout(TRANSFER_SECONDS):
            form = await _Reader(request, file_field, names, limit, write).read()
    except TimeoutError:
        message = f"Nothing of the body has come for {SILENCE_SECONDS:g} s, or not all of it in {TRANSFER_SECONDS:g} s."
        raise ApiError(408, f"{message} Please send it again.", code="request_timeout") from None
    except (HttpProcessingError, web.RequestPayloadError, ValueError, LookupError, RuntimeError, AssertionError):
        raise wrong(file_field, f"The body cannot be read as {_TYPE}.", code="invalid_form") from None
    if not form.has_file:
        raise wrong(file_field, f"{file_field} is missing", MISSING_PARAMETER)
    return form


class _Reader:
    def __init__(self, request: web.BaseRequest, file_field: str, names: Collection[str], limit: int, write: Write):
        self._parts = MultipartReader(request.headers, request.content)
        self._file_field = file_field
        self._names = names
        self._limit = limit
        self._write = write
        self._form = Form()
        self._problem: ApiError | None = None

    async def read(self) -> Form:
        count = 0
        while (part := await _in_time(self._parts.next())) is not None:
            count += 1
            if count > FIELDS or not isinstance(part, BodyPartReader):
                raise ValueError
            if "content-transfer-encoding" in part.headers or "content-encoding" in part.headers:
                raise ValueError
            await self._read_part(part)
        if self._problem is not None:
            raise self._problem
        return self._form

    async def _read_part(self, part: BodyPartReader) -> None:
        name = part.name or ""
        if name == self._file_field:
            if self._form.has_file:
                self._note(wrong(name, f"{name} is there twice"))
            self._form.has_file = True
            self._form.filename = part.filename
            await self._read_file(part)
            return
        if name not in self._names:
            text = f"the field {name[:64]!r} is not supported here"
            self._note(wrong(name[:FIELD_BYTES] or self._file_field, text, UNKNOWN_PARAMETER))
        value = bytearray()
        while chunk := await _in_time(part.read_chunk(_CHUNK_BYTES)):
            if len(value) + len(chunk) > FIELD_BYTES:
                self._note(wrong(name[:64], f"{name[:64]} is too long"))
                value.clear()
            else:
                value += chunk
        if name in self._form.fields:
            self._note(wrong(name, f"{name} is there twice"))
        self._form.fields[name] = value.decode()

    async def _read_file(self, part: BodyPartReader) -> None:
        size, piece = 0, bytearray()
        while chunk := await _in_time(part.read_chunk(_CHUNK_BYTES)):
            size += len(chunk)
            if size > self._limit:
                raise too_large(self._file_field, self._limit)
            if self._problem is None:
                piece += chunk
            if len(piece) >= _PIECE_BYTES:
                await self._pass(piece)
                piece = bytearray()
        if piece:
            await self._pass(piece)

    async def _pass(self, piece: bytearray) -> None:
        try:
            await self._write(bytes(piece))
        except ApiError as error:
            self._note(error)

    def _note(self, problem: ApiError) -> None:
        self._problem = self._problem or problem


async def _in_time(part: Awaitable[_Result]) -> _Result:
    async with asyncio.timeout(SILENCE_SECONDS):
        return await part
