"""Removes what belongs to no file: of deleted and expired files, ended uploads, and gateways that have died."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from rft_gateway.errors import ApiError
from rft_gateway.files.keeper import Keeper
from rft_gateway.files.leftovers import Leftovers
from rft_gateway.files.staging import Staging

_PAUSE_SECONDS = 60.0
"""Time between two looks, when nothing asks for one. Several gateways may look at the same time."""
_logger = logging.getLogger(__name__)


class Sweeper:
    """Removes it, until its task is cancelled.

    Args:
        keeper: has the store.
        leftovers: the addresses of content.
        staging: the files on their way.
    """

    def __init__(self, keeper: Keeper, leftovers: Leftovers, staging: Staging):
        self._keeper = keeper
        self._leftovers = leftovers
        self._staging = staging
        self._is_due = asyncio.Event()

    def wake(self) -> None:
        """Have what is to be removed now removed soon."""
        self._is_due.set()

    async def run(self) -> None:
        """Look again and again."""
        while True:
            self._is_due.clear()
            try:
                await self._sweep()
            except ApiError:
                pass  # was logged, and is tried again
            except Exception:  # of whatever kind: nothing would ever be removed any more
                _logger.exception("what is left of files is not removed")
            try:
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._is_due.wait()
            except TimeoutError:
                pass

    async def _sweep(self) -> None:
        await self._keeper.run(self._staging.remove_abandoned)
        await self._leftovers.expire()
        for uri in await self._leftovers.claim():
            await self._keeper.run(partial(self._keeper.store.remove, uri))
            await self._leftovers.forget(uri)
