"""HTTP to pods: one request a connection, and an answer whose cost is bounded, whatever the pod sends.

A general HTTP client parses an answer as it arrives, at some 20 microseconds a piece. A pod that sends 64 KiB in chunks
of one byte, or interim answers without end, takes a second or more of the operator's CPU time for each question. Here
the bytes are collected, at most a hundred reads a second, and parsed once.
"""

from __future__ import annotations

import asyncio
import re
import socket

import httpx

ANSWER_BYTES = 128 << 10
"""Largest answer of a pod with its headers, and with what frames its body, unless the caller says otherwise."""
HEAD_BYTES = 16 << 10
"""Largest status line with headers."""
READ_BYTES = 64 << 10
PAUSE_SECONDS = 0.01
"""Pause between two reads, in which small pieces of an answer collect."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)(?: [^\r\n]*)?")
_HEAD_END = b"\r\n\r\n"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_LAST_CHUNK = b"0\r\n\r\n"


class PodTransport(httpx.AsyncBaseTransport):
    """Sends each request on a connection of its own, without TLS. The caller sets the deadline.

    Args:
        answer_bytes: the largest answer with its headers, and with what frames its body.
    """

    def __init__(self, answer_bytes: int = ANSWER_BYTES):
        self._answer_bytes = answer_bytes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the whole answer.

        Raises:
            httpx.ConnectError: when there is no connection.
            httpx.ReadError: when the connection breaks.
            httpx.RemoteProtocolError: when the answer is too large, incomplete, or not HTTP.
        """
        host, port = request.url.host, request.url.port or 80
        try:
            connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        with connection:
            connection.setblocking(False)
            loop = asyncio.get_running_loop()
            try:
                await loop.sock_connect(connection, (host, port))
            except OSError as error:
                raise httpx.ConnectError(str(error)) from error
            try:
                await loop.sock_sendall(connection, _write_request(request, await request.aread()))
                answer = await _receive(connection, self._answer_bytes)
            except OSError as error:
                raise httpx.ReadError(str(error)) from error
        status, headers, body = parse_answer(answer)
        # Given as content, a body would be decompressed at once.
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body), request=request)


def _write_request(request: httpx.Request, body: bytes) -> bytes:
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"connection"]
    lines = [
        b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path),
        *(b"%s: %s" % header for header in [*headers, (b"Connection", b"close")]),
    ]
    return b"\r\n".join(lines) + _HEAD_END + body


async def _receive(connection: socket.socket, maximum_bytes: int) -> bytes:
    """Receive until the answer is whole or the pod closes the connection."""
    loop = asyncio.get_running_loop()
    answer = bytearray()
    while piece := await loop.sock_recv(connection, READ_BYTES):
        answer += piece
        if len(answer) > maximum_bytes:
            raise httpx.RemoteProtocolError(f"it answers with more than {maximum_bytes >> 10} KiB")
        if _is_whole(answer):
            break
        await asyncio.sleep(PAUSE_SECONDS)
    return bytes(answer)


def _is_whole(answer: bytearray) -> bool:
    """Return whether the body is known to have ended. An answer that says nothing about it ends with its connection."""
    end = answer.find(_HEAD_END, 0, HEAD_BYTES)
    if end < 0:
        return len(answer) > HEAD_BYTES  # it has too large a head, and is refused
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", answer[: end + 2], re.IGNORECASE)
    if length is not None:
        return len(answer) >= end + len(_HEAD_END) + int(length[1])
    return answer.endswith(_LAST_CHUNK)


def parse_answer(answer: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Parse an answer of HTTP/1; return its status code, headers and body.

    Raises:
        httpx.RemoteProtocolError: when it is none.
    """
    head, end, rest = answer.partition(_HEAD_END)
    if not end or len(head) > HEAD_BYTES:
        raise httpx.RemoteProtocolError("its answer has no headers, or more than 16 KiB of them")
    status_line, *lines = head.split(b"\r\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if status is None:
        raise httpx.RemoteProtocolError("it does not answer in HTTP/1.1")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise httpx.RemoteProtocolError("its answer has a malformed header")
        headers.append((name.lower(), value.strip()))
    framing = dict(headers)
    if b"transfer-encoding" in framing:
        return int(status[1]), _drop(headers, b"transfer-encoding"), _join_chunks(rest)
    if b"content-length" in framing:
        length = framing[b"content-length"]
        if not re.fullmatch(rb"\d{1,9}", length) or len(rest) < int(length):
            raise httpx.RemoteProtocolError("its answer is shorter than it says")
        rest = rest[: int(length)]
    return int(status[1]), headers, rest


def _drop(headers: list[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    return [header for header in headers if header[0] != name]


def _join_chunks(framed: bytes) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while (size := _CHUNK.match(framed, position)) is not None:
        length, start = int(size[1], 16), size.end()
        if not length:
            return b"".join(pieces)
        position = start + length + 2
        if framed[start + length : position] != b"\r\n":
            break
        pieces.append(framed[start : start + length])
    raise httpx.RemoteProtocolError("its answer ends within a chunk")
