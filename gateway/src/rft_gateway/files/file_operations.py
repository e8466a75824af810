"""The operations on files: create, list, retrieve, content, delete."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from rft_api.storage_error import StorageError
from rft_gateway.answers import in_time
from rft_gateway.errors import ApiError
from rft_gateway.files.catalog import FileCatalog, Lost
from rft_gateway.files.database import now_milliseconds
from rft_gateway.files.errors import no_file, unavailable
from rft_gateway.files.forms import read_form
from rft_gateway.files.keeper import Keeper
from rft_gateway.files.record import FileRecord
from rft_gateway.files.requests import (
    FILE_FIELDS,
    FILE_ID,
    PURPOSE,
    check_filename,
    check_purpose,
    read_expiry,
    read_list_question,
)
from rft_gateway.files.staging import StagedFile
from rft_gateway.files.tasks import Tasks
from rft_gateway.keys import Key
from rft_gateway.ledger import make_id

_PIECE_BYTES = 1 << 18
"""Bytes of content that are sent at once."""


class FileOperations:
    """What the API does with files.

    Args:
        catalog: the files.
        keeper: their content.
        tasks: what goes on when a client has left.
        limit: largest size of a file in bytes.
        clean: called when content is to be removed.
    """

    def __init__(self, catalog: FileCatalog, keeper: Keeper, tasks: Tasks, limit: int, clean: Callable[[], None]):
        self._catalog = catalog
        self._keeper = keeper
        self._tasks = tasks
        self._limit = limit
        self._clean = clean

    async def create(self, request: web.BaseRequest, key: Key) -> dict[str, Any]:
        """Take the file of a form; it exists when it is checked, stored and recorded.

        Raises:
            ApiError: when the form or the file is wrong, or the file cannot be stored.
        """
        with ExitStack() as stack:
            staged = stack.enter_context(self._keeper.stage(key.namespace))
            form = await read_form(request, "file", FILE_FIELDS, self._limit, partial(self._keeper.write, staged))
            check_purpose(form.fields.get("purpose"))
            filename, seconds = check_filename("file", form.filename), read_expiry(form.fields)
            rest = stack.pop_all()  # from here on, the file goes its way also when its client has left
        record = await self._tasks.finish(self._keep(rest, staged, key, filename, seconds))
        return record.document()

    async def list(self, query: MultiMapping[str], key: Key) -> dict[str, Any]:
        """Return a page of the files of the key's namespace.

        Raises:
            ApiError: when a parameter is wrong.
        """
        question = read_list_question(query)
        files = await self._catalog.files(
            key.namespace,
            after=question.after,
            purpose=question.purpose,
            is_descending=question.is_descending,
            limit=question.limit + 1,
        )
        page = files[: question.limit]
        return {
            "object": "list",
            "data": [file.document() for file in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": len(files) > len(page),
        }

    async def retrieve(self, name: str, key: Key) -> FileRecord:
        """Return a file of the key's namespace.

        Raises:
            ApiError: 404 when it has none with this id.
        """
        file = await self._catalog.file(key.namespace, name) if FILE_ID.fullmatch(name) else None
        if file is None:
            raise no_file(name)
        return file

    async def delete(self, name: str, key: Key) -> dict[str, Any]:
        """Delete a file; its content is removed soon.

        Raises:
            ApiError: 404 when the namespace has none with this id.
        """
        if not FILE_ID.fullmatch(name) or not await self._catalog.remove(key.namespace, name):
            raise no_file(name)
        self._clean()
        return {"id": name, "object": "file", "deleted": True}

    async def send_content(
        self, request: web.BaseRequest, name: str, key: Key, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Send the content of a file, in pieces.

        Raises:
            ApiError: 404 when the namespace has no such file, or its content is gone.
        """
        file = await self.retrieve(name, key)
        with ExitStack() as stack:
            read = await self._open(file, stack)
            response = web.StreamResponse(headers={
                **headers,
                "content-type": "application/octet-stream",
                "content-disposition": f'attachment; filename="{file.id}.jsonl"',
                "x-content-type-options": "nosniff",
            })  # fmt: skip
            response.content_length = file.bytes
            await response.prepare(request)
            left = file.bytes
            while left:
                try:
                    piece = await self._keeper.run(partial(read, min(left, _PIECE_BYTES)))
                except ApiError as error:
                    raise StorageError(str(error)) from error  # the answer has begun: it can only break off
                if not piece:
                    raise StorageError(f"{file.uri} is shorter than it was")
                left -= len(piece)
                await in_time(request, response.write(piece))
            await in_time(request, response.write_eof())
        return response

    async def _open(self, file: FileRecord, stack: ExitStack) -> Callable[[int], bytes]:
        def open_content() -> Callable[[int], bytes] | StorageError:
            try:
                return stack.enter_context(self._keeper.store.reading(file.uri))
            except StorageError as error:
                return error

        read = await self._keeper.run(open_content)
        if not isinstance(read, StorageError):
            return read
        if not read.permanent:
            raise unavailable() from read
        message = f"The content of {file.id} cannot be read where it was stored. Upload the file again."
        raise ApiError(404, message, param="id", code="file_content_missing") from read

    async def _keep(
        self, rest: ExitStack, staged: StagedFile, key: Key, filename: str, seconds: int | None
    ) -> FileRecord:
        with rest:
            return await self.keep(staged, key, filename, seconds)

    async def keep(
        self, staged: StagedFile, key: Key, filename: str, seconds: int | None, upload: str | None = None
    ) -> FileRecord:
        """Make a file of one on its way.

        Args:
            staged: the file, which has come whole.
            key: who makes it.
            filename: its name.
            seconds: time after which it expires; None for a file that stays.
            upload: the upload that it comes from, which ends with this.

        Raises:
            ApiError: when it cannot be used or stored.
            Lost: when the upload has ended in another way.
        """
        await self._keeper.check(staged, key.namespace)
        with ExitStack() as stack:
            if upload is None:  # the parts of an upload count already
                stack.enter_context(self._keeper.reserve(key.namespace, staged.size))
                await self._keeper.require_room(key.namespace)
            name = f"file-{make_id(datetime.now(UTC))}"
            uri = await self._keeper.put(staged, f"{key.namespace}/{name}.jsonl", key.namespace)
            created = now_milliseconds()
            expires = None if seconds is None else created + seconds * 1000
            record = FileRecord(
                name, key.namespace, key.name, filename, PURPOSE, staged.size, staged.sha256, uri, created, expires
            )
            try:
                await self._catalog.add(record, upload)
            except Lost:
                await self._keeper.give_up(uri)
                self._clean()
                if upload is None:
                    raise unavailable() from None
                raise
        return record
