"""Reads large bodies and answers in a process of its own: the gateway would stand still for everybody meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import astuple
from functools import partial
from typing import Any, BinaryIO

import orjson

from rft_api.foreign import server_limits
from rft_api.foreign.files import most_values
from rft_api.model import Json
from rft_gateway import server_errors
from rft_gateway.errors import ApiError, overloaded
from rft_gateway.requests import LARGE_BYTES as LARGE_BYTES
from rft_gateway.requests import LARGE_VALUES as LARGE_VALUES
from rft_gateway.requests import Api, Call, read_call
from rft_gateway.turns import Turns
from rft_gateway.usage import Usage, usage_of

MOST_VALUES = 8_000_000
"""Largest number of values of an answer: that of embeddings has some 8 bytes for each. More of them would be shorter,
and take more memory than a gateway has."""
NICENESS = 10
"""What the other process leaves to the gateway where both want the same processor core."""
_SIZE_BYTES = 8
_ANSWER = "answer"
"""Stands for the path of the operation where the body is that of an answer."""
_EVENT = "event"
"""The same for the data of the last event of a stream of /v1/responses, which repeats the whole answer."""
_READ_FIELDS = (
    "model", "stream", "wants_usage", "wants_continuous_usage", "completions", "prompts", "beginning",
    "prompt_estimate", "token_estimate",
)  # fmt: skip
"""The fields of a Call that the other process answers with, besides what is added to the body."""


class LargeBodies:
    """Reads bodies of requests and of answers, the large ones in another process. It is an async context manager.

    The process starts with the first large body, and again when it has died. It reads one body after another; a
    namespace waits with all of its bodies but one until that one is read.
    """

    def __init__(self) -> None:
        self._turns = Turns()
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> LargeBodies:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def read_call(self, api: Api, body: bytes, namespace: str) -> Call:
        """Read the body of a request of a namespace, as `requests.read_call` does.

        Raises:
            ApiError: 400 when it is no request, 503 when the other process has died of it.
        """
        if len(body) <= LARGE_BYTES and most_values(body) <= LARGE_VALUES:
            return read_call(api, body)
        reply = await self._turns.take(namespace, partial(self._read_elsewhere, api.value, body))
        return Call(api=api, body=body, added=reply["added"].encode(), **reply["call"])

    async def read_answer(self, body: bytes, namespace: str) -> tuple[Usage | None, Json | bytes | None]:
        """Read an answer to a request of a namespace, which is no stream.

        Parsed, a large answer takes ten times its bytes, for as long as somebody holds it: it is given back as it is.

        Returns:
            the usage that it states, if it does; and its document, or the bytes of a large one. None if it is no
            object.

        Raises:
            ApiError: 502 when it is no JSON, or has too many values; 503 when the other process has died of it.
        """
        values = most_values(body)
        if values > MOST_VALUES:
            raise server_errors.answer_too_large()
        if len(body) <= LARGE_BYTES and values <= LARGE_VALUES:
            document = _parse_answer(body)
            return usage_of(document), document if isinstance(document, dict) else None
        reply = await self._turns.take(namespace, partial(self._read_elsewhere, _ANSWER, body))
        return None if reply["usage"] is None else Usage(*reply["usage"]), body if reply["is_object"] else None

    async def read_last_event(self, content: bytes, namespace: str) -> Usage | None:
        """Return the usage that the last event of a stream of /v1/responses states, of a request of a namespace.

        Args:
            content: its data, of any size.
            namespace: that of the request.

        Raises:
            ApiError: 502 when it is no JSON, or has too many values; 503 when the other process has died of it.
        """
        if most_values(content) > MOST_VALUES:
            raise server_errors.answer_too_large()
        reply = await self._turns.take(namespace, partial(self._read_elsewhere, _EVENT, content))
        return None if reply["usage"] is None else Usage(*reply["usage"])

    async def _read_elsewhere(self, name: str, body: bytes) -> Json:
        async with self._lock:
            try:
                async with asyncio.timeout(server_limits.BODY_SECONDS):
                    reply: Json = orjson.loads(await self._ask(name, body))
            except (OSError, EOFError):  # also when it takes too long
                await self._end()
                raise _unreadable(name) from None
        if "error" in reply:
            raise ApiError(**reply["error"])
        return reply

    async def _ask(self, name: str, body: bytes) -> bytes:
        """Return what the other process answers to a body.

        Raises:
            OSError, EOFError: when it has died.
        """
        if self._process is None or self._process.returncode is not None:
            command = [sys.executable, "-m", __name__]
            pipe = asyncio.subprocess.PIPE
            # In a session of its own: Ctrl-C in a terminal is for the gateway, which then ends it.
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, start_new_session=True
            )
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None
        assert replies is not None
        requests.write(_size(name.encode()) + name.encode() + _size(body))
        requests.write(body)
        await requests.drain()
        return await replies.readexactly(int.from_bytes(await replies.readexactly(_SIZE_BYTES)))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer bodies with what there is to know of them, until there are no more.

    Args:
        requests: the path of the operation, or that it is an answer, and the body, again and again; each begins with
            its size.
        replies: gets the fields of the Call, the usage of the answer, or the fields of the ApiError, in JSON that
            begins with its size.
    """
    while (name := _read_part(requests)) is not None and (body := _read_part(requests)) is not None:
        reply = _reply_or_error(name.decode(), body)
        del body
        replies.write(_size(reply) + reply)
        replies.flush()


def _reply_or_error(name: str, body: bytes) -> bytes:
    """Return the reply to a body. Whatever happens costs its own request only: others wait for this process."""
    try:
        return orjson.dumps(_reply(name, body))
    except Exception as error:
        # Its message might have a part of the request.
        print(f"large bodies: {type(error).__name__}", file=sys.stderr, flush=True)
        return orjson.dumps({"error": _fields(_unreadable(name))})


def _unreadable(name: str) -> ApiError:
    part = "body of the request" if name in list(Api) else "answer"
    return overloaded(f"The gateway could not read the {part}.")


def _fields(error: ApiError) -> Json:
    return {name: getattr(error, name) for name in ("status", "message", "type", "param", "code", "headers")}


def _reply(name: str, body: bytes) -> Json:
    try:
        if name in (_ANSWER, _EVENT):
            document = _parse_answer(body)
            if name == _EVENT:
                document = document.get("response") if isinstance(document, dict) else None
            usage = usage_of(document)
            return {"usage": None if usage is None else astuple(usage), "is_object": isinstance(document, dict)}
        call = read_call(Api(name), body)
    except ApiError as error:
        return {"error": _fields(error)}
    return {"call": {name: getattr(call, name) for name in _READ_FIELDS}, "added": call.added.decode()}


def _parse_answer(body: bytes) -> Any:
    """Parse an answer.

    Raises:
        ApiError: 502 when it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise server_errors.broken_off() from None


def _read_part(file: BinaryIO) -> bytes | None:
    """Return the next part of the requests; None at their end."""
    size = file.read(_SIZE_BYTES)
    return file.read(int.from_bytes(size)) if len(size) == _SIZE_BYTES else None


def _size(part: bytes) -> bytes:
    return len(part).to_bytes(_SIZE_BYTES)


if __name__ == "__main__":
    os.nice(NICENESS)
    serve(sys.stdin.buffer, sys.stdout.buffer)
