"""What pods of a hostile tenant answer over HTTP: kin of one attack, which is to make the operator read for ever.

`python -m support.hostile_pods ADDRESS=KIND ... -- PORT ...` serves each kind at its address, at all ports, and says so
on standard output. Whatever is asked, the answer is the kind's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import itertools
import json
import sys
from collections.abc import AsyncGenerator, Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Answer = Callable[[], AsyncGenerator[bytes, None]]
"""Yields what is sent, piece by piece."""


def endless(piece: bytes, first: bytes = b"", pause: float = 0.0) -> Answer:
    """An answer without end: after the first bytes the same piece again and again, with a pause before each."""

    async def answer() -> AsyncGenerator[bytes, None]:
        yield first
        while True:
            await asyncio.sleep(pause)
            yield piece

    return answer


async def silence() -> AsyncGenerator[bytes, None]:
    """Yields nothing, and keeps the connection."""
    await asyncio.Event().wait()
    yield b""


@functools.cache
def _compressed() -> bytes:
    return gzip.compress(b" " * (40 << 20))


async def bomb() -> AsyncGenerator[bytes, None]:
    """Yields 40 KiB that are 40 MiB when they are decompressed."""
    yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_compressed()) + _compressed()


async def junk() -> AsyncGenerator[bytes, None]:
    """Yields 64 KiB that are no JSON."""
    yield HEAD + b"Content-Length: 65536\r\n\r\n" + b"\x1b[2J\n" * 13107 + b"x"


async def nested() -> AsyncGenerator[bytes, None]:
    """Yields JSON that is nested 32,000 times."""
    yield HEAD + b"Content-Length: 64000\r\n\r\n" + b"[" * 32000 + b"]" * 32000


_numbers = itertools.count(1)


async def news() -> AsyncGenerator[bytes, None]:
    """Yields progress that is valid, almost as large as it may be, and another one each time."""
    number = next(_numbers)
    progress = {"phase": "Training", "step": number, "message": f"{number} " + "\u202e\x1b" * 5000}
    body = json.dumps(progress).encode()
    yield HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def redirect() -> AsyncGenerator[bytes, None]:
    """Yields a redirection to itself."""
    yield b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /progress\r\nContent-Length: 0\r\n\r\n"


async def reset() -> AsyncGenerator[bytes, None]:
    """Yields the beginning of an answer, and breaks the connection."""
    yield HEAD + b"Content-Length: 1000\r\n\r\n{"
    raise ConnectionResetError


KINDS: dict[str, Answer] = {
    "drip": endless(b" ", HEAD + b"\r\n", pause=1.0),
    "pour": endless(b"x" * 65536, HEAD + b"\r\n"),
    "crumbs": endless(b"1\r\nx\r\n" * 10_000, CHUNKED),
    "interim": endless(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000),
    "headers": endless(b"a: b\r\n" * 10_000, HEAD),
    "slow_headers": endless(b"a: b\r\n", HEAD, pause=0.1),
    **{answer.__name__: answer for answer in (silence, bomb, junk, nested, news, redirect, reset)},
}


def handler(kind: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
    """A handler of connections, for `asyncio.start_server`."""

    answering = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        answering.add(task)  # asyncio itself would let a task that waits be collected as garbage
        try:
            await reader.readuntil(b"\r\n\r\n")
            async with contextlib.aclosing(KINDS[kind]()) as pieces:
                async for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            answering.discard(task)

    return answer


async def serve(kinds: dict[str, str], ports: list[int]) -> None:
    """Serves kinds at their addresses, at all ports, until it is cancelled."""
    for address, kind in kinds.items():
        for port in ports:
            await asyncio.start_server(handler(kind), address, port, backlog=2000)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    split = sys.argv.index("--")
    addresses = dict(argument.split("=", 1) for argument in sys.argv[1:split])
    asyncio.run(serve(addresses, [int(port) for port in sys.argv[split + 1 :]]))
