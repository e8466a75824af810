"""Sends clients the events of a job as its status changes: server-sent events, bounded in number and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web

from rft_api.model import Json
from rft_gateway.answers import event_stream, in_time
from rft_gateway.errors import ApiError, overloaded, stopping
from rft_gateway.fine_tuning.events import NewEvents
from rft_gateway.fine_tuning.job import ENDED, Job
from rft_gateway.shares import Shares
from rft_gateway.waiting import HEARTBEAT_SECONDS

HEARTBEAT: Final = b": nothing has happened\n\n"
DONE: Final = b"data: [DONE]\n\n"
_NOT_FOUND, _UNAVAILABLE = 404, 503


@dataclass(frozen=True)
class StreamLimits:
    """What streams of events may take."""

    streams: int = 64
    """Number of streams at the same time. What a namespace has may not be more than what is still free."""
    seconds: float = 3600.0
    """Time after which a stream ends, so that none outlives its client unnoticed."""
    pause: float = 5.0
    """Seconds between two reads of the job: the operator writes its status every 15 s."""
    heartbeat: float = HEARTBEAT_SECONDS
    """Seconds after which a client gets a comment when nothing happens. A read of the job may take 30 s more."""


class EventStreams:
    """The streams of events that are open.

    Args:
        stop: is set when the gateway is about to end.
        limits: what they may take.
    """

    def __init__(self, stop: asyncio.Event, limits: StreamLimits):
        self._stop = stop
        self._limits = limits
        self._open = Shares(limits.streams)

    async def send(
        self, request: web.BaseRequest, namespace: str, read: Callable[[], Awaitable[Job]], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Send the events of a job until it has ended.

        Args:
            request: the request of the client.
            namespace: whose stream it is.
            read: returns the job as it is now; raises the ApiError of whoever may not see it any more.
            headers: those of the answer.

        Raises:
            ApiError: when no stream has begun; later, it is the last event of the stream.
            ClientLeft: when the client has left.
        """
        if not self._open.have_room(namespace, 1):
            raise overloaded("Too many streams of events are open at the same time.")
        self._open.add(namespace, 1)
        try:
            job = await read()
            stream = event_stream(headers)
            await in_time(request, stream.prepare(request))
            try:
                end = await self._follow(job, read, lambda part: in_time(request, stream.write(part)))
            except ApiError as error:
                end = b"data: " + error.body() + b"\n\n"
            await in_time(request, stream.write_eof(end))
            return stream
        finally:
            self._open.add(namespace, -1)

    async def _follow(
        self, job: Job, read: Callable[[], Awaitable[Job]], write: Callable[[bytes], Awaitable[None]]
    ) -> bytes:
        """Write the events of a job until it has ended, and return the last ones.

        Raises:
            ApiError: with the reason why the stream ends before the job.
        """
        events = NewEvents()
        last = time.monotonic()
        end = last + self._limits.seconds
        while True:
            new = b"".join(map(_data, events.take(job)))
            if job.state in ENDED:
                return new + DONE
            now = time.monotonic()
            if new or now - last >= self._limits.heartbeat:
                await write(new or HEARTBEAT)
                last = now
            await self._sleep(min(self._limits.pause, end - now))
            if self._stop.is_set():
                raise stopping()
            if time.monotonic() >= end:
                message = (
                    f"A stream of events lasts {self._limits.seconds:,.0f} s at most. Ask again: events keep their ids."
                )
                raise ApiError(503, message, code="stream_too_long")
            job = await _read_again(job, read)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


async def _read_again(job: Job, read: Callable[[], Awaitable[Job]]) -> Job:
    """Return a job as it is now; as it was, while the API server is away.

    Raises:
        ApiError: when whoever asks does not see it any more.
    """
    try:
        now = await read()
    except ApiError as error:
        if error.status == _UNAVAILABLE:
            return job
        if error.status == _NOT_FOUND:
            raise _gone(job) from None
        raise
    if now.metadata.get("uid") != job.metadata.get("uid"):
        raise _gone(job)  # another one has its name
    return now


def _gone(job: Job) -> ApiError:
    message = f"Fine-tuning job {job.name} was deleted, or this key does not open its model any more."
    return ApiError(_NOT_FOUND, message, param="fine_tuning_job_id", code="job_not_found")


def _data(event: Json) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
