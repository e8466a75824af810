"""Turns a file on its way into a file: checked, stored, and with its row written last."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from rft_api.foreign.sizes import format_size
from rft_api.storage_error import StorageError
from rft_gateway.errors import ApiError
from rft_gateway.files.catalog import FileCatalog
from rft_gateway.files.checker import Checker
from rft_gateway.files.errors import unavailable
from rft_gateway.files.leftovers import Leftovers
from rft_gateway.files.limits import ENTRY_BYTES
from rft_gateway.files.staging import StagedFile, Staging
from rft_gateway.files.store import FileStore
from rft_gateway.turns import Turns

_THREADS = 16
"""Contents that are written or read at the same time."""
_logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Keeper:
    """Writes the content of files, and of parts of uploads, to the disk and to the store.

    Args:
        store: where content stays.
        staging: where it is on its way.
        catalog: the files.
        leftovers: what is to be removed.
        limit: bytes that the files of a namespace may have together.
    """

    def __init__(self, store: FileStore, staging: Staging, catalog: FileCatalog, leftovers: Leftovers, limit: int):
        self.store = store
        self._staging = staging
        self._catalog = catalog
        self._leftovers = leftovers
        self._limit = limit
        self._checker = Checker()
        self._turns = Turns()
        self._reserved: Counter[str] = Counter()
        """Bytes of content on its way to a row, by namespace."""
        self._threads = ThreadPoolExecutor(_THREADS, "files-content")

    @contextmanager
    def stage(self, namespace: str) -> Iterator[StagedFile]:
        """Open a file on its way for as long as the block lasts.

        Raises:
            ApiError: 503 when there is no room for it.
        """
        try:
            staged = self._staging.open(namespace)
        except OSError as error:
            _logger.warning("files: %s", error)
            raise unavailable() from error
        try:
            staged.take(0)
            yield staged
        finally:
            staged.give_back()
            try:
                self._threads.submit(staged.close)  # to remove a large file takes a while
            except RuntimeError:  # the gateway ends
                staged.close()

    async def write(self, staged: StagedFile, data: bytes) -> None:
        """Append bytes to a file on its way.

        Raises:
            ApiError: 503 when there is no room for them.
        """
        staged.take(len(data))
        await self.run(partial(staged.write, data))

    async def check(self, staged: StagedFile, namespace: str) -> None:
        """Check that a file on its way can be used for training.

        Raises:
            ApiError: 400 when it cannot; it names the lines.
        """
        await self.run(staged.flush)
        await self._checker.check(staged.path, namespace)

    @contextmanager
    def reserve(self, namespace: str, size: int) -> Iterator[None]:
        """Count bytes of content that has no row yet to its namespace, for as long as the block lasts."""
        self._reserved[namespace] += size + ENTRY_BYTES
        try:
            yield
        finally:
            self._reserved[namespace] -= size + ENTRY_BYTES
            if not self._reserved[namespace]:
                del self._reserved[namespace]

    async def require_room(self, namespace: str) -> None:
        """Check that a namespace may have what it has reserved.

        What has just got its row counts twice until it is not reserved any more: so parallel requests never pass the
        limit together.

        Raises:
            ApiError: 400 when it has too many bytes; 503 when the database cannot be read.
        """
        used = await self._catalog.used_bytes(namespace)
        if used + self._reserved[namespace] > self._limit:
            message = (
                f"The files of this namespace have {format_size(used)} of {format_size(self._limit)}, and "
                f"{format_size(self._reserved[namespace])} are on their way. Delete files that are not needed any more."
            )
            raise ApiError(400, message, param="file", code="storage_limit_exceeded")

    async def put(self, staged: StagedFile, name: str, namespace: str) -> str:
        """Store a file on its way, and return its address. Until a row has it, it counts as left over.

        Args:
            staged: the file.
            name: of its content in the store, with parts between slashes.
            namespace: stores one after another.

        Raises:
            ApiError: 503 when it cannot be stored.
        """
        uri = self.store.address(name)
        await self._leftovers.announce(uri)
        await self.run(staged.flush)
        put = partial(self.store.put, staged.path, uri, staged.sha256)
        await self._turns.take(namespace, partial(self.run, put))
        return uri

    async def give_up(self, uri: str) -> None:
        """Have stored content removed of which nothing becomes.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        await self._leftovers.give_up(uri)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do work with content in a thread.

        Raises:
            ApiError: 503 when disk or store cannot be used.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (OSError, StorageError) as error:
            _logger.warning("files: %s", error)
            raise unavailable() from error

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
