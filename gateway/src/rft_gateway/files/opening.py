"""Opens the files of a gateway: database, store, and what removes what is left over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from rft_gateway.files.api import FilesApi
from rft_gateway.files.catalog import FileCatalog
from rft_gateway.files.database import Database
from rft_gateway.files.file_operations import FileOperations
from rft_gateway.files.keeper import Keeper
from rft_gateway.files.leftovers import Leftovers
from rft_gateway.files.staging import Staging
from rft_gateway.files.store import FileStore
from rft_gateway.files.sweeper import Sweeper
from rft_gateway.files.tasks import Tasks
from rft_gateway.files.upload_catalog import UploadCatalog
from rft_gateway.files.upload_operations import UploadOperations
from rft_gateway.settings import FileSettings

_INCOMING = ".incoming"


@dataclass(frozen=True)
class OpenFiles:
    """The files of a gateway that runs."""

    api: FilesApi
    """Answers requests."""
    catalog: FileCatalog
    """Finds files, for what trains with them."""


@asynccontextmanager
async def open_files(settings: FileSettings, engine: Engine) -> AsyncIterator[OpenFiles]:
    """Open the files of a gateway for as long as the block lasts.

    Args:
        settings: where they are, and how large they may be.
        engine: the ledger's database.

    Raises:
        OSError: when a folder cannot be written.
        ApiError: when the database cannot be written.
    """
    store = FileStore(settings.uri, settings.credentials)
    staging = Staging(settings.staging or Path(settings.uri) / _INCOMING, settings.staging_bytes)
    staging.prepare()
    database, tasks = Database(engine), Tasks()
    await database.prepare()
    catalog, leftovers = FileCatalog(database), Leftovers(database)
    keeper = Keeper(store, staging, catalog, leftovers, settings.namespace_bytes)
    sweeper = Sweeper(keeper, leftovers, staging)
    files = FileOperations(catalog, keeper, tasks, settings.file_bytes, sweeper.wake)
    uploads = UploadOperations(
        UploadCatalog(database), catalog, keeper, files, tasks, settings.file_bytes, sweeper.wake
    )
    sweeping = asyncio.create_task(sweeper.run())
    try:
        yield OpenFiles(FilesApi(files, uploads), catalog)
    finally:
        await tasks.close()
        sweeping.cancel()
        keeper.close()
        database.close()
