"""The Files and Uploads API: which operation a request asks for."""

from __future__ import annotations

import re
from typing import Any

import orjson
from aiohttp import web

from rft_gateway.bodies import HeldBody
from rft_gateway.errors import ApiError, require_few_fields
from rft_gateway.files.errors import too_large
from rft_gateway.files.file_operations import FileOperations
from rft_gateway.files.limits import DOCUMENT_BYTES
from rft_gateway.files.upload_operations import UploadOperations
from rft_gateway.keys import Key
from rft_gateway.requests import parse_body

FILES, UPLOADS = "/v1/files", "/v1/uploads"
_FILE = re.compile(rf"{FILES}/([^/]+)(/content)?")
_UPLOAD = re.compile(rf"{UPLOADS}/([^/]+)/(parts|complete|cancel)")
_LONGEST_PATH = 200


def is_files_path(path: str) -> bool:
    """Return whether a path is of this API."""
    return path in (FILES, UPLOADS) or path.startswith((f"{FILES}/", f"{UPLOADS}/"))


class FilesApi:
    """Answers requests for files and uploads.

    Args:
        files: the operations on files.
        uploads: the operations on uploads.
    """

    def __init__(self, files: FileOperations, uploads: UploadOperations):
        self._files = files
        self._uploads = uploads

    async def answer(
        self, request: web.BaseRequest, key: Key, body: HeldBody, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Answer a request.

        Args:
            request: its path is one of this API.
            key: who asks.
            body: reads its body, where that is JSON.
            headers: those of the answer.

        Raises:
            ApiError: when it is refused.
            ClientLeft: when the client has left.
        """
        path, method = request.path, request.method
        if path == FILES:
            _require(request, "POST", "GET")
            if method == "POST":
                return _json(await self._files.create(request, key), headers)
            return _json(await self._files.list(request.query, key), headers)
        if path == UPLOADS:
            _require(request, "POST")
            return _json(await self._uploads.create(await _read(request, body), key), headers)
        if match := _FILE.fullmatch(path):
            return await self._answer_for_file(request, match[1], bool(match[2]), key, headers)
        if match := _UPLOAD.fullmatch(path):
            _require(request, "POST")
            return _json(await self._answer_for_upload(request, match[1], match[2], key, body), headers)
        raise ApiError(404, f"Invalid URL ({method} {path[:_LONGEST_PATH]})", code="unknown_url")

    async def _answer_for_file(
        self, request: web.BaseRequest, name: str, is_content: bool, key: Key, headers: dict[str, str]
    ) -> web.StreamResponse:
        if is_content:
            _require(request, "GET")
            return await self._files.send_content(request, name, key, headers)
        _require(request, "GET", "DELETE")
        if request.method == "DELETE":
            return _json(await self._files.delete(name, key), headers)
        return _json((await self._files.retrieve(name, key)).document(), headers)

    async def _answer_for_upload(
        self, request: web.BaseRequest, name: str, operation: str, key: Key, body: HeldBody
    ) -> dict[str, Any]:
        if operation == "parts":
            return await self._uploads.add_part(request, name, key)
        if operation == "complete":
            return await self._uploads.complete(await _read(request, body), name, key)
        return await self._uploads.cancel(name, key)


def files_are_off() -> ApiError:
    """Return the error of a gateway that keeps no files."""
    message = (
        "This gateway keeps no files. Its administrator turns that on with gateway.files.uri in the chart, or with "
        "--files."
    )
    return ApiError(404, message, code="files_disabled")


async def _read(request: web.BaseRequest, body: HeldBody) -> dict[str, Any]:
    if (request.content_length or 0) > DOCUMENT_BYTES:
        raise too_large("body", DOCUMENT_BYTES)
    content = await body.read(request)
    if len(content) > DOCUMENT_BYTES:
        raise too_large("body", DOCUMENT_BYTES)
    document = parse_body(content)
    require_few_fields(document)
    return document


def _require(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        message = f"Not allowed to {request.method[:20]} on {request.path[:_LONGEST_PATH]}."
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": ", ".join(methods)})


def _json(document: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json", headers=headers)
