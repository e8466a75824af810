"""Uploads a file to an object store so that an interrupted upload goes on, and only expected contents are stored."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from rft_api.file_digests import DIGEST_PREFIX
from rft_api.foreign.files import open_file
from rft_api.progress import OnBytes
from rft_api.storage_error import StorageError

PART_BYTES = 8 << 20
"""Size of a part of a large file; S3 allows no smaller one than 5 MiB. A smaller file is sent in one request."""
_MOST_PARTS = 10_000
"""Largest number of parts that S3 takes."""
_THREADS = 4
"""Parts that are on their way at the same time; each is in memory."""


@dataclass(frozen=True)
class Target:
    """An object, and the client of its store (boto3)."""

    client: Any
    bucket: str
    key: str

    @property
    def place(self) -> dict[str, str]:
        """The object in the words of S3's requests."""
        return {"Bucket": self.bucket, "Key": self.key}


def part_size(size: int) -> int:
    """Return the size of the parts of a file of a size in bytes; it depends on nothing else, so that parts match."""
    parts = -(-size // PART_BYTES)
    return PART_BYTES * -(-parts // _MOST_PARTS)


def upload_file(target: Target, path: Path, digest: str, on_bytes: OnBytes) -> None:
    """Upload a file whose digest is known. Parts that an earlier upload has stored are not sent again.

    The object appears only when all of it is stored, and only when what was read has the digest: a file that changes
    meanwhile is never stored under the digest of what it was.

    Args:
        target: the object.
        path: the file.
        digest: its SHA-256 as `sha256:HEX`.
        on_bytes: called with the sizes of parts that are stored, in this thread.

    Raises:
        StorageError: when the file has changed since its digest was computed.
        OSError: when it cannot be read.
        botocore's and boto3's errors: when the store refuses.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size <= PART_BYTES:
        content = b"".join(_parts(path, PART_BYTES))
        if _hex(digest) != hashlib.sha256(content).hexdigest():
            raise _changed(path)
        target.client.put_object(**target.place, Body=content)
        on_bytes(len(content))
        return
    _upload_parts(target, path, part_size(size), digest, on_bytes)


def _upload_parts(target: Target, path: Path, size: int, digest: str, on_bytes: OnBytes) -> None:
    upload, stored = _resume(target)
    whole = hashlib.sha256()
    parts: list[dict[str, Any]] = []
    underway: deque[tuple[int, int, Future[Any]]] = deque()

    def finish_first() -> None:
        number, length, future = underway.popleft()
        parts.append({"PartNumber": number, "ETag": future.result()["ETag"]})
        on_bytes(length)

    pool = ThreadPoolExecutor(_THREADS)
    try:
        for number, content in enumerate(_parts(path, size), start=1):
            whole.update(content)
            # The ETag of a part is its MD5. Stores that encrypt with keys have others there: the part is sent again.
            etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if stored.get(number) == (len(content), etag):
                parts.append({"PartNumber": number, "ETag": f'"{etag}"'})
                on_bytes(len(content))
                continue
            arguments = {**target.place, "UploadId": upload, "PartNumber": number, "Body": content}
            underway.append((number, len(content), pool.submit(target.client.upload_part, **arguments)))
            if len(underway) > _THREADS:
                finish_first()
        while underway:
            finish_first()
    finally:
        # After an interruption, the parts on their way are stored: they are not sent again.
        pool.shutdown(wait=True, cancel_futures=True)
    if _hex(digest) != whole.hexdigest():
        target.client.abort_multipart_upload(**target.place, UploadId=upload)
        raise _changed(path)
    parts.sort(key=lambda part: part["PartNumber"])
    target.client.complete_multipart_upload(**target.place, UploadId=upload, MultipartUpload={"Parts": parts})


def _resume(target: Target) -> tuple[str, dict[int, tuple[int, str]]]:
    """Return the id of the newest unfinished upload to the object, or of a new one, and its parts: size and MD5."""
    uploads = _unfinished(target)
    if not uploads:
        return target.client.create_multipart_upload(**target.place)["UploadId"], {}
    newest = max(uploads, key=lambda upload: upload["Initiated"])["UploadId"]
    pages = target.client.get_paginator("list_parts").paginate(**target.place, UploadId=newest)
    return newest, {
        part["PartNumber"]: (part["Size"], part["ETag"].strip('"')) for page in pages for part in page.get("Parts", [])
    }


def abort_uploads(target: Target) -> None:
    """End the unfinished uploads to an object; the parts that they have stored are removed.

    Raises:
        botocore's errors: when the store refuses.
    """
    for upload in _unfinished(target):
        target.client.abort_multipart_upload(**target.place, UploadId=upload["UploadId"])


def _unfinished(target: Target) -> list[dict[str, Any]]:
    """Return the unfinished uploads to the object; none where the user may not list them, who then begins anew."""
    pages = target.client.get_paginator("list_multipart_uploads").paginate(Bucket=target.bucket, Prefix=target.key)
    try:
        return [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == target.key]
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403:
            return []
        raise


def _parts(path: Path, size: int) -> Iterator[bytes]:
    with open_file(path) as file:
        while content := file.read(size):
            yield content


def _hex(digest: str) -> str:
    return digest.removeprefix(DIGEST_PREFIX)


def _changed(path: Path) -> StorageError:
    return StorageError(f"{path} changed while it was uploaded; wait until nothing writes to it, and try again")
