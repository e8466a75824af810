"""Content that belongs to no file (yet): what is being stored, and what is to be removed.

Before content is stored, its address is written here, and the row of its file takes it out. Whatever is still here
later was left by a gateway that has died, or by a file that was deleted.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update

from rft_gateway.files.database import FILES, LEFTOVERS, PARTS, UPLOADS, Database, now_milliseconds
from rft_gateway.files.limits import KEPT_SECONDS, STORE_SECONDS

_AT_ONCE = 1000
"""Addresses of one look."""


def leave(connection: Connection, uris: Sequence[str]) -> None:
    """Write that content is to be removed now."""
    if uris:
        connection.execute(insert(LEFTOVERS), [{"uri": uri, "due": 0, "claimed": 1} for uri in uris])


class Leftovers:
    """The addresses of such content.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database):
        self._database = database

    async def announce(self, uri: str) -> None:
        """Write that content will be stored at an address.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        due = now_milliseconds() + STORE_SECONDS * 1000
        row = insert(LEFTOVERS).values(uri=uri, due=due, claimed=0)
        await self._database.run(lambda connection: connection.execute(row))

    async def give_up(self, uri: str) -> None:
        """Write that nothing becomes of announced content, so that it is removed now.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        row = update(LEFTOVERS).where(LEFTOVERS.c.uri == uri).values(due=0, claimed=1)
        await self._database.run(lambda connection: connection.execute(row))

    async def claim(self) -> list[str]:
        """Return addresses whose content is to be removed: from now on, nothing can become of it.

        Raises:
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> list[str]:
            due = LEFTOVERS.c.due <= now_milliseconds()
            connection.execute(update(LEFTOVERS).where(due, LEFTOVERS.c.claimed == 0).values(claimed=1))
            query = select(LEFTOVERS.c.uri).where(due, LEFTOVERS.c.claimed == 1).limit(_AT_ONCE)
            return list(connection.execute(query).scalars())

        return await self._database.run(write)

    async def forget(self, uri: str) -> None:
        """Write that there is no content at an address any more.

        Raises:
            ApiError: 503 when the database cannot be written.
        """
        row = delete(LEFTOVERS).where(LEFTOVERS.c.uri == uri)
        await self._database.run(lambda connection: connection.execute(row))

    async def expire(self) -> None:
        """Remove what has expired, and uploads that have ended long ago; leave their content to be removed.

        Raises:
            ApiError: 503 when the database cannot be written.
        """

        def write(connection: Connection) -> None:
            now = now_milliseconds()
            leave(connection, list(connection.execute(
                delete(FILES).where(FILES.c.expires <= now).returning(FILES.c.uri)
            ).scalars()))  # fmt: skip
            pending = (UPLOADS.c.status == "pending", UPLOADS.c.expires <= now)
            connection.execute(update(UPLOADS).where(*pending).values(status="expired"))
            ended = select(UPLOADS.c.id).where(UPLOADS.c.status != "pending")
            leave(connection, list(connection.execute(
                delete(PARTS).where(PARTS.c.upload.in_(ended)).returning(PARTS.c.uri)
            ).scalars()))  # fmt: skip
            old = UPLOADS.c.expires <= now - KEPT_SECONDS * 1000
            connection.execute(delete(UPLOADS).where(UPLOADS.c.status != "pending", old))

        await self._database.run(write)
