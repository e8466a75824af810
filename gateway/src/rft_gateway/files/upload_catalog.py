"""The uploads of all namespaces, and their parts: their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, delete, insert, select, update

from rft_gateway.files.catalog import Lost, leave_parts
from rft_gateway.files.database import LEFTOVERS, PARTS, UPLOADS, Database, now_milliseconds
from rft_gateway.files.record import Part, Upload


class UploadCatalog:
    """Finds uploads and their parts, and keeps their rows.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database):
        self._database = database

    async def add(self, upload: Upload) -> None:
        """Write the row of an upload that begins.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        row = insert(UPLOADS).values(**asdict(upload))
        await self._database.run(lambda connection: connection.execute(row))

    async def upload(self, namespace: str, name: str) -> Upload | None:
        """Return an upload by its id; None when the namespace has none.

        Raises:
            ApiError: 503 when the database cannot be read.
        """
        query = select(UPLOADS).where(UPLOADS.c.namespace == namespace, UPLOADS.c.id == name)

        def read(connection: Connection) -> Upload | None:
            row = connection.execute(query).mappings().first()
            return None if row is None else Upload(**row)

        upload = await self._database.run(read)
        if upload is not None and upload.status == "pending" and upload.expires <= now_milliseconds():
            return replace(upload, status="expired")
        return upload

    async def parts(self, upload: str) -> dict[str, Part]:
        """Return the parts of an upload by their ids.

        Raises:
            ApiError: 503 when the database cannot be read.
        """
        query = select(PARTS).where(PARTS.c.upload == upload)

        def read(connection: Connection) -> Sequence[Part]:
            return [Part(**row) for row in connection.execute(query).mappings()]

        return {part.id: part for part in await self._database.run(read)}

    async def add_part(self, part: Part) -> None:
        """Write the row of a part whose content is stored.

        Raises:
            Lost: when its upload has ended; the content is removed later.
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> None:
            own = (LEFTOVERS.c.uri == part.uri, LEFTOVERS.c.claimed == 0)
            if not connection.execute(delete(LEFTOVERS).where(*own)).rowcount:
                raise Lost
            # A change that changes nothing waits for whoever ends the upload at the same time.
            pending = (UPLOADS.c.id == part.upload, UPLOADS.c.status == "pending")
            if not connection.execute(update(UPLOADS).where(*pending).values(status="pending")).rowcount:
                raise Lost
            connection.execute(insert(PARTS).values(**asdict(part)))

        await self._database.run(write)

    async def cancel(self, upload: Upload) -> None:
        """End an upload that is pending, and leave the content of its parts to be removed.

        Raises:
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> None:
            pending = (UPLOADS.c.id == upload.id, UPLOADS.c.status == "pending")
            if connection.execute(update(UPLOADS).where(*pending).values(status="cancelled")).rowcount:
                leave_parts(connection, upload.id)

        await self._database.run(write)
