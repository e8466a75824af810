"""The operations on uploads: create, add a part, complete, cancel."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from rft_gateway.errors import ApiError
from rft_gateway.files.catalog import FileCatalog, Lost
from rft_gateway.files.database import now_milliseconds
from rft_gateway.files.errors import no_upload, wrong
from rft_gateway.files.file_operations import FileOperations
from rft_gateway.files.forms import read_form
from rft_gateway.files.keeper import Keeper
from rft_gateway.files.limits import PART_BYTES, PARTS, UPLOAD_SECONDS
from rft_gateway.files.record import Part, Upload
from rft_gateway.files.requests import (
    UPLOAD_ID,
    CompleteRequest,
    UploadRequest,
    check_filename,
    check_purpose,
    check_size,
    read_document,
)
from rft_gateway.files.staging import StagedFile
from rft_gateway.files.tasks import Tasks
from rft_gateway.files.upload_catalog import UploadCatalog
from rft_gateway.keys import Key
from rft_gateway.ledger import make_id

_FOLDER = ".uploads"
_PIECE_BYTES = 1 << 20


class UploadOperations:
    """What the API does with uploads.

    Args:
        uploads: the uploads.
        catalog: the files.
        keeper: content of parts and files.
        files: makes files.
        tasks: what goes on when a client has left.
        limit: largest size of a file in bytes.
        clean: called when content is to be removed.
    """

    def __init__(
        self,
        uploads: UploadCatalog,
        catalog: FileCatalog,
        keeper: Keeper,
        files: FileOperations,
        tasks: Tasks,
        limit: int,
        clean: Callable[[], None],
    ):
        self._uploads = uploads
        self._catalog = catalog
        self._keeper = keeper
        self._files = files
        self._tasks = tasks
        self._limit = limit
        self._clean = clean

    async def create(self, document: dict[str, Any], key: Key) -> dict[str, Any]:
        """Begin an upload.

        Raises:
            ApiError: 400 when a field is wrong, or the namespace has no room.
        """
        request = read_document(document, UploadRequest)
        check_purpose(request.purpose)
        check_size(request.bytes, self._limit)
        filename = check_filename("filename", request.filename)
        with self._keeper.reserve(key.namespace, request.bytes):
            await self._keeper.require_room(key.namespace)
        created = now_milliseconds()
        upload = Upload(
            id=f"upload_{make_id(datetime.now(UTC))}",
            namespace=key.namespace,
            key=key.name,
            filename=filename,
            purpose=request.purpose,
            bytes=request.bytes,
            created=created,
            expires=created + UPLOAD_SECONDS * 1000,
            expires_after=None if request.expires_after is None else request.expires_after.seconds,
        )
        await self._uploads.add(upload)
        return upload.document()

    async def add_part(self, request: web.BaseRequest, name: str, key: Key) -> dict[str, Any]:
        """Take a part; it exists when it is stored and recorded.

        Raises:
            ApiError: when the form is wrong, the upload is not pending, or the part cannot be stored.
        """
        upload = await self._pending(name, key)
        if len(await self._uploads.parts(upload.id)) >= PARTS:
            raise wrong("data", f"data: an upload has at most {PARTS} parts")
        with ExitStack() as stack:
            staged = stack.enter_context(self._keeper.stage(key.namespace))
            await read_form(request, "data", (), PART_BYTES, partial(self._keeper.write, staged))
            if not staged.size:
                raise wrong("data", "data is empty")
            stack.enter_context(self._keeper.reserve(key.namespace, staged.size))
            await self._keeper.require_room(key.namespace)
            rest = stack.pop_all()
        part = await self._tasks.finish(self._keep_part(rest, staged, upload))
        return part.document()

    async def complete(self, document: dict[str, Any], name: str, key: Key) -> dict[str, Any]:
        """Make a file of the parts of an upload, in the order of the request; a repeated request gets the same file.

        Raises:
            ApiError: when the parts are not what was declared, or the file cannot be used or stored.
        """
        request = read_document(document, CompleteRequest)
        upload = await self._find(name, key)
        if upload.status == "completed":
            return await self._describe(upload)
        _require_pending(upload)
        stored_parts = await self._uploads.parts(upload.id)
        if len(set(request.part_ids)) < len(request.part_ids):
            raise wrong("part_ids", "part_ids: a part is there twice")
        unknown = next((part for part in request.part_ids if part not in stored_parts), None)
        if unknown is not None:
            raise wrong("part_ids", f"part_ids: the upload has no part {unknown[:64]!r}")
        parts = [stored_parts[part] for part in request.part_ids]
        size = sum(part.bytes for part in parts)
        if size != upload.bytes:
            text = f"part_ids: the parts have {size} bytes together, and the upload was declared with {upload.bytes}"
            raise wrong("part_ids", text)
        try:
            await self._tasks.finish(self._join(upload, parts, key, request.md5))
        except ApiError:
            # Somebody else may have completed it meanwhile, after which its parts are removed.
            if (await self._find(name, key)).status == "pending":
                raise
        return await self._describe(await self._find(name, key))

    async def cancel(self, name: str, key: Key) -> dict[str, Any]:
        """End an upload without a file; a repeated request changes nothing.

        Raises:
            ApiError: 400 when it is completed.
        """
        upload = await self._find(name, key)
        if upload.status != "cancelled":
            _require_pending(upload)
            await self._uploads.cancel(upload)
            self._clean()
            upload = await self._find(name, key)
        if upload.status != "cancelled":
            _require_pending(upload)
        return upload.document()

    async def _keep_part(self, rest: ExitStack, staged: StagedFile, upload: Upload) -> Part:
        with rest:
            part_id = f"part_{make_id(datetime.now(UTC))}"
            uri = await self._keeper.put(staged, f"{_FOLDER}/{upload.id}/{part_id}", upload.namespace)
            part = Part(part_id, upload.id, staged.size, uri, now_milliseconds())
            try:
                await self._uploads.add_part(part)
            except Lost:
                await self._keeper.give_up(uri)
                self._clean()
                raise _ended(upload.id, "not pending any more") from None
            return part

    async def _join(self, upload: Upload, parts: Sequence[Part], key: Key, md5: str | None) -> None:
        with self._keeper.stage(upload.namespace) as staged:
            for part in parts:
                staged.take(part.bytes)
                await self._keeper.run(partial(self._copy, part, staged))
            if staged.size != upload.bytes:
                raise wrong("part_ids", "part_ids: the parts cannot be read as they were stored; upload them again")
            if md5 is not None and not hmac.compare_digest(md5.lower().encode(), staged.md5.encode()):
                raise wrong("md5", f"md5: the parts together have the MD5 {staged.md5}")
            try:
                await self._files.keep(staged, key, upload.filename, upload.expires_after, upload.id)
            except Lost:
                return  # somebody else has completed or cancelled it meanwhile
            self._clean()

    def _copy(self, part: Part, staged: StagedFile) -> None:
        left = part.bytes
        with self._keeper.store.reading(part.uri) as read:
            while left and (piece := read(min(left, _PIECE_BYTES))):
                staged.write(piece)
                left -= len(piece)

    async def _describe(self, upload: Upload) -> dict[str, Any]:
        _require_completed(upload)
        file = await self._catalog.file(upload.namespace, upload.file) if upload.file else None
        return upload.document(file)

    async def _find(self, name: str, key: Key) -> Upload:
        upload = await self._uploads.upload(key.namespace, name) if UPLOAD_ID.fullmatch(name) else None
        if upload is None:
            raise no_upload(name)
        return upload

    async def _pending(self, name: str, key: Key) -> Upload:
        upload = await self._find(name, key)
        _require_pending(upload)
        return upload


def _require_pending(upload: Upload) -> None:
    if upload.status != "pending":
        raise _ended(upload.id, upload.status)


def _require_completed(upload: Upload) -> None:
    if upload.status != "completed":
        raise _ended(upload.id, upload.status)


def _ended(name: str, state: str) -> ApiError:
    return ApiError(400, f"{name} is {state}. Begin a new upload.", param="upload_id", code="upload_ended")
