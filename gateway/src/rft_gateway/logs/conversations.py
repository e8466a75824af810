"""Keeps conversations: on the disk before their answer ends, and from there, later, at their destinations.

An answer never fails because its conversation cannot be kept: that is counted, and said in the gateway's log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b

from rft_api.conversation_logs import EndpointLogs
from rft_api.gateway_routes import Route
from rft_gateway.group_commit import CommitError, GroupCommit
from rft_gateway.logs.record import Conversation, LineTooLarge, conversation_line
from rft_gateway.logs.spool import BATCH_BYTES, Destination, Spool
from rft_gateway.logs.stores import Stores
from rft_gateway.logs.uploads import Uploader
from rft_gateway.metrics import Metrics
from rft_gateway.turns import Turns

FINISH_SECONDS = 5.0
"""Time in which a gateway that ends tries to upload what waits."""
_REDACTING_THREADS = 2
_SHARES = 1 << 64
_log = logging.getLogger(__name__)


class Conversations:
    """Where conversations are kept. All methods belong to one event loop.

    Args:
        spool: where they wait; None keeps none.
        stores: where they go.
        metrics: counts them.
        segment_seconds: time for which conversations are collected for one object.
    """

    def __init__(self, spool: Spool | None, stores: Stores, metrics: Metrics, segment_seconds: float):
        self._spool = spool
        self._metrics = metrics
        self._is_said = False
        self._turns = Turns()
        self._redacting = ThreadPoolExecutor(_REDACTING_THREADS, "redaction")
        if spool is not None:
            self._commits = GroupCommit(
                "spool", partial(_append, spool), _describe, batch_size=BATCH_BYTES, size_of=_size_of
            )
            self._uploader = Uploader(spool, stores, self._commits.run, metrics, segment_seconds)
            metrics.watch_logs(lambda: spool.records, lambda: spool.size, lambda: _age(spool))

    async def start(self) -> None:
        """Take over what an earlier gateway has left, and begin to upload.

        Raises:
            SpoolError: when the spool cannot be used.
        """
        if self._spool is not None:
            await self._commits.run(self._spool.open)
            self._uploading = asyncio.create_task(self._uploader.run())

    def selects(self, route: Route, request_id: str) -> bool:
        """Return whether the conversation of a request belongs to the share that is kept; it depends on its id only."""
        if route.logs is None:
            return False
        number = int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest())
        return number < route.logs.fraction * _SHARES

    async def keep(self, conversation: Conversation) -> None:
        """Return when a conversation is on the disk, or cannot be kept."""
        await self.append(conversation.route, "", partial(conversation_line, conversation))

    async def append(self, route: Route, folder: str, make_line: Callable[[], bytes]) -> str | None:
        """Keep a line in a folder of a model's log, and return why it is not kept, or None when it is on the disk.

        Args:
            route: the model, which has a log.
            folder: a folder below the address of the log, or the empty text.
            make_line: makes the line, without what is to be redacted.
        """
        assert route.logs is not None
        uri = f"{route.logs.uri.rstrip('/')}/{folder}" if folder else route.logs.uri
        reason: str | None
        try:
            # Redaction takes time that grows with text and patterns: it must not hold up the requests of others.
            redact = partial(self._redact, make_line)
            line = await self._turns.take(route.namespace, redact) if route.logs.redact else make_line()
        except LineTooLarge:
            reason = LineTooLarge.RESULT
        except (ValueError, TypeError, RecursionError) as error:
            # Its message might have a part of the request.
            _log.error("a line for the log of %s/%s: %s", route.namespace, route.model, type(error).__name__)
            reason = "Unwritable"
        else:
            secret = route.logs.credentials.secret_name if isinstance(route.logs, EndpointLogs) else None
            reason = await self._write(Destination(namespace=route.namespace, uri=uri, secret=secret), line)
        self._metrics.count_log_record(route, reason or "Kept")
        return reason

    async def close(self) -> None:
        """Write what waits, and try to upload it."""
        if self._spool is not None:
            await self._commits.finish()
            self._uploading.cancel()
            await self._uploader.finish(FINISH_SECONDS)
            await self._commits.run(self._spool.close)
            await self._commits.close()
        self._redacting.shutdown()

    async def _redact(self, make_line: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._redacting, make_line)

    async def _write(self, destination: Destination, line: bytes) -> str | None:
        """Return when a line is on the disk; all that wait at the same time are written together."""
        if self._spool is None:
            if not self._is_said:
                _log.error("conversations are not kept: the gateway was started without --spool")
            self._is_said = True
            return "NoSpool"
        try:
            return await self._commits.submit((destination, line))
        except CommitError:
            return "SpoolFailed"


def _append(spool: Spool, lines: list[tuple[Destination, bytes]]) -> list[str | None]:
    return spool.append(lines, datetime.now(UTC))


def _size_of(line: tuple[Destination, bytes]) -> int:
    return len(line[1])


def _describe(error: Exception) -> str:
    return f"conversations are not kept: {type(error).__name__}"  # its message might have a part of one


def _age(spool: Spool) -> float:
    oldest = spool.oldest
    return 0.0 if oldest is None else max(0.0, (datetime.now(UTC) - oldest).total_seconds())
