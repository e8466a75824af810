"""The files of all namespaces: their rows, written when their content is stored."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from rft_gateway.files.database import FILES, LEFTOVERS, PARTS, UPLOADS, Database, now_milliseconds
from rft_gateway.files.leftovers import leave
from rft_gateway.files.limits import ENTRY_BYTES
from rft_gateway.files.record import FileRecord


class Lost(Exception):
    """The content of a file was given up, or its upload has ended, before its row was written."""


class FileCatalog:
    """Finds files, and keeps their rows.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database):
        self._database = database

    async def file(self, namespace: str, name: str) -> FileRecord | None:
        """Return a file by its id; None when the namespace has none, or it has expired.

        Raises:
            ApiError: 503 when the database cannot be read.
        """
        files = await self._select(namespace, FILES.c.id == name, limit=1)
        return files[0] if files else None

    async def files(
        self, namespace: str, *, after: str | None, purpose: str | None, is_descending: bool, limit: int
    ) -> list[FileRecord]:
        """Return files of a namespace by the time of their making.

        Args:
            namespace: the namespace.
            after: id of the file after which the list begins.
            purpose: the only purpose.
            is_descending: whether the newest file comes first.
            limit: largest number of files.

        Raises:
            ApiError: 503 when the database cannot be read.
        """
        conditions: list[ColumnElement[bool]] = []
        if after is not None:
            conditions.append(FILES.c.id < after if is_descending else FILES.c.id > after)
        if purpose is not None:
            conditions.append(FILES.c.purpose == purpose)
        return await self._select(namespace, *conditions, limit=limit, is_descending=is_descending)

    async def used_bytes(self, namespace: str) -> int:
        """Return what the files and unfinished uploads of a namespace count for.

        Raises:
            ApiError: 503 when the database cannot be read.
        """

        def read(connection: Connection) -> int:
            files = select(func.count(), func.coalesce(func.sum(FILES.c.bytes), 0)).where(
                FILES.c.namespace == namespace
            )
            uploads = select(func.count()).where(UPLOADS.c.namespace == namespace)
            parts = (
                select(func.count(), func.coalesce(func.sum(PARTS.c.bytes), 0))
                .join(UPLOADS, UPLOADS.c.id == PARTS.c.upload)
                .where(UPLOADS.c.namespace == namespace)
            )
            file_count, file_bytes = connection.execute(files).one()
            part_count, part_bytes = connection.execute(parts).one()
            entries = file_count + part_count + connection.execute(uploads).scalar_one()
            return int(file_bytes + part_bytes + entries * ENTRY_BYTES)

        return await self._database.run(read)

    async def add(self, record: FileRecord, upload: str | None = None) -> None:
        """Write the row of a file whose content is stored, and with it the end of the upload that it comes from.

        Raises:
            Lost: when nothing may become of the content any more; it is removed later.
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> None:
            own = (LEFTOVERS.c.uri == record.uri, LEFTOVERS.c.claimed == 0)
            if not connection.execute(delete(LEFTOVERS).where(*own)).rowcount:
                raise Lost
            if upload is not None:
                pending = (UPLOADS.c.id == upload, UPLOADS.c.status == "pending")
                completed = update(UPLOADS).where(*pending).values(status="completed", file=record.id)
                if not connection.execute(completed).rowcount:
                    raise Lost
                leave_parts(connection, upload)
            connection.execute(insert(FILES).values(**asdict(record)))

        await self._database.run(write)

    async def remove(self, namespace: str, name: str) -> bool:
        """Remove a file, and leave its content to be removed; return whether there was one.

        Raises:
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> bool:
            own = (FILES.c.namespace == namespace, FILES.c.id == name)
            gone = connection.execute(delete(FILES).where(*own).returning(FILES.c.uri)).scalar()
            if gone is not None:
                leave(connection, [gone])
            return gone is not None

        return await self._database.run(write)

    async def _select(
        self, namespace: str, *conditions: ColumnElement[bool], limit: int, is_descending: bool = False
    ) -> list[FileRecord]:
        is_there = or_(FILES.c.expires.is_(None), FILES.c.expires > now_milliseconds())
        order = FILES.c.id.desc() if is_descending else FILES.c.id
        query = select(FILES).where(FILES.c.namespace == namespace, is_there, *conditions).order_by(order).limit(limit)

        def read(connection: Connection) -> list[FileRecord]:
            return [FileRecord(**row) for row in connection.execute(query).mappings()]

        return await self._database.run(read)


def leave_parts(connection: Connection, upload: str) -> None:
    """Remove the rows of the parts of an upload, and leave their content to be removed."""
    gone = connection.execute(delete(PARTS).where(PARTS.c.upload == upload).returning(PARTS.c.uri)).scalars()
    leave(connection, list(gone))
