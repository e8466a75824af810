"""Server-sent events on their way from a server to a client: usage is counted, and taken out where nobody asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from rft_api.foreign import server_limits
from rft_api.foreign.files import most_values
from rft_api.foreign.sizes import format_size
from rft_gateway.chunk_shapes import ChunkShape, shape_of
from rft_gateway.errors import ApiError
from rft_gateway.logs import Assembly
from rft_gateway.requests import LARGE_BYTES, LARGE_VALUES, Api, Call
from rft_gateway.usage import StreamTally, Usage

EVENT_BYTES = 1 << 20
"""Largest event in bytes, beside those of the request: some events repeat it."""
LAST_EVENT_BYTES = 64 << 20
"""Largest last event of /v1/responses, as the largest answer: it repeats the whole one."""
PACED_BYTES = 1 << 16
"""Bytes above which events are read in turn with those of other streams of the namespace."""
_AT_ONCE = 256
"""Events that are read at once. More of them are read in turn, too."""
_MOST_LINES = 1024
"""Lines of an event. Servers write their JSON in one."""
_SMALL_EVENTS = 4096
_SMALL_EVENT_BYTES = 32
"""Largest number of events of a stream, beside one for each 32 bytes: to read one takes as long as hundreds of bytes.
The shortest chunk with a text has 45."""
_END = b"\n\n"
_DATA = b"data: "
_FIELD = b"data:"
"""The field of an event with its data; a space behind it does not belong to them."""
_DONE = b"[DONE]"
_USAGE = b',"usage":{'
_SHAPES = 8
"""Chunks of a stream of which the shape is made, until one of them has none that repeats."""
_FAILED = "response.failed"
_LAST_EVENTS = ("response.completed", "response.incomplete", _FAILED)
_LARGE_EVENTS = (b"event: response.completed\n", b"event: response.incomplete\n")
"""Beginnings of events that may be larger than others. They are not parsed here."""


class EventStream:
    """The events of one answer.

    The last event is held back, so that usage can be recorded before the client has the whole answer; so is an error,
    after which clients read no further. What a server sends behind them is dropped, but for the sign that ends streams.

    Args:
        call: the request.
        tally: counts the tokens.
        server_error: makes OpenAI's error of an error that the server states.
        assembly: gets the chunks, if the whole answer is wanted.
        take: counts bytes that are held, and raises an ApiError when there is no room for them.
    """

    def __init__(
        self,
        call: Call,
        tally: StreamTally,
        server_error: Callable[[Any], ApiError],
        assembly: Assembly | None = None,
        take: Callable[[int], object] = int,
    ):
        self._call = call
        self._tally = tally
        self._server_error = server_error
        self._assembly = assembly
        self._pass_on = self._response_event if call.api is Api.RESPONSES else self._chunk
        self._shape: ChunkShape | None = None
        """The shape of the chunks before; the next ones are compared with it before they are parsed."""
        self._shapes_left = 0 if assembly is not None or call.api is Api.RESPONSES else _SHAPES
        self._parts: list[bytes] = []
        """Of the event whose end has not come. They are joined once: an event may have thousands."""
        self._size = self._counted = 0
        self._take = take
        self._most_bytes = EVENT_BYTES + len(call.body)
        self._events = self._bytes = 0
        self.has_more = False
        """Whether `go_on` has more events that have come already, or an error behind them."""
        self._failure: ValueError | ApiError | None = None
        self.large_content: bytes | None = None
        """The data of a large last event of /v1/responses: somebody else has to read its usage."""
        self._tail = b""
        """What follows them, where the end of the event may begin: line ends of two bytes become one."""
        self.held = b""
        """What the client gets after usage was recorded."""
        self.is_complete = False
        """Whether the server has sent its last event."""
        self.error: ApiError | None = None
        """The error that the server has stated in the middle of the stream."""
        self._has_ended = False

    def feed(self, data: bytes) -> bytes:
        """Take what the server has sent, and return what the client gets of it now; the rest comes from `go_on`.

        Raises:
            ValueError: when an event is too large, or has too many lines or values, or when there are too many of them.
            ApiError: when there is no memory for an event whose end has not come.
        """
        self._bytes += len(data)
        data = self._tail + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        return self._pass_events(data)

    def go_on(self) -> bytes:
        """Return what the client gets of further events that have come with the others; raises as `feed` does."""
        if self._failure is not None:
            raise self._failure
        return self._pass_events(self._tail)

    def is_paced(self, data: bytes) -> bool:
        """Return whether what the server has sent is to be read in turn with that of other streams."""
        return len(data) + self._size > PACED_BYTES

    def _pass_events(self, data: bytes) -> bytes:
        *events, rest = data.split(_END, _AT_ONCE)
        if events:
            events[0] = b"".join([*self._parts, events[0]])
            self._parts, self._size = [], 0
            self._events += len(events)
            if self._events > _SMALL_EVENTS + self._bytes // _SMALL_EVENT_BYTES:
                raise ValueError(f"sends more than {_SMALL_EVENTS:,} events of fewer than {_SMALL_EVENT_BYTES} bytes")
        self.has_more = len(events) == _AT_ONCE
        passed: list[bytes] = []
        try:
            for event in events:
                passed.append(self._pass_event(event))
            if self.has_more:
                self._tail = rest
            else:
                part, self._tail = rest[:-2], rest[-2:]
                if part:
                    self._hold_part(part)
        except (ValueError, ApiError) as error:
            if not passed:
                raise
            self._failure, self.has_more = error, True  # the client gets what came before
        return b"".join(passed)

    def _hold_part(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._counted:
            self._take(self._size - self._counted)
            self._counted = self._size
        if self._size > self._most_bytes:
            # Joined once in a while: a large event has hundreds of parts.
            if len(self._parts) > 1:
                self._parts = [b"".join(self._parts)]
            self._check_size(self._parts[0])
            self._most_bytes = max(self._most_bytes, min(2 * self._size, LAST_EVENT_BYTES))

    def _check_size(self, event: bytes) -> None:
        """Raise ValueError when an event, or the beginning of one, is too large."""
        is_last = self._call.api is Api.RESPONSES and event.startswith(_LARGE_EVENTS)
        limit = LAST_EVENT_BYTES if is_last else EVENT_BYTES + len(self._call.body)
        if len(event) > limit:
            raise ValueError(f"sends an event of more than {format_size(limit)}")

    def _pass_event(self, event: bytes) -> bytes:
        if self._shape is not None and (alike := self._shape.compare(event)) is not None:
            usage, plain = alike
            self._tally.add_delta(self._shape.index, usage)
            return (event if self._call.wants_continuous_usage else plain) + _END
        self._check_size(event)
        start = 0 if event.startswith(_FIELD) else event.find(b"\n" + _FIELD) + 1
        content = _content(event, start) if start or event.startswith(_FIELD) else b""
        if self._has_ended:
            return b""
        if content == _DONE:
            self.is_complete = self._has_ended = True
            return self._hold(event + _END)
        if self.is_complete or self.error:
            return b""
        if self._is_large_last(event, content):
            self.large_content, self.is_complete = content, True
            return self._hold(event + _END)
        document = _parse(content)
        if document is None:
            passed = event + _END  # a comment that keeps the connection open
        elif document.get("error"):
            self.error = self._server_error(document["error"])
            passed = event[:start] + _DATA + self.error.body() + _END
        else:
            if self._assembly is not None:
                self._assembly.add(document, len(event))
            passed = self._pass_on(event, document)
        return self._hold(passed) if self.is_complete or self.error else passed

    def _is_large_last(self, event: bytes, content: bytes) -> bool:
        if self._call.api is not Api.RESPONSES or not event.startswith(_LARGE_EVENTS):
            return False
        return len(content) > LARGE_BYTES or most_values(content) > LARGE_VALUES

    def _hold(self, event: bytes) -> bytes:
        self._shape, self._shapes_left = None, 0  # what follows is dropped
        self.held += event
        return b""

    def _chunk(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        """Count a chunk of chat or completions, and return what the client gets of it."""
        usage = self._tally.add_chunk(chunk)
        if chunk.get("choices"):
            try:
                plain = event if usage is None else without_usage(event, chunk)
                if self._shapes_left:
                    self._learn_shape(event, chunk, usage, plain)
            except orjson.JSONEncodeError:
                raise ValueError("sends an event that is nested too deeply") from None
            return (event if self._call.wants_continuous_usage else plain) + _END
        return event + _END if usage is None or self._call.wants_usage else b""

    def _learn_shape(self, event: bytes, chunk: dict[str, Any], usage: Usage | None, plain: bytes) -> None:
        """Have the next chunks compared with this one, if the comparison says of it what its parsing has said."""
        self._shapes_left -= 1
        shape = shape_of(event, chunk)
        if shape is not None and shape.compare(event) == (usage, plain):
            self._shape = shape

    def _response_event(self, event: bytes, document: dict[str, Any]) -> bytes:
        """Count an event of /v1/responses, which the client gets as it is."""
        self._tally.add_event(document)
        if document.get("type") in _LAST_EVENTS:
            self.is_complete = True
        if document.get("type") == _FAILED:
            response = document.get("response")
            self.error = self._server_error(response.get("error") if isinstance(response, dict) else None)
        return event + _END


def without_usage(event: bytes, chunk: dict[str, Any]) -> bytes:
    """Return the event of a chunk without its usage, and otherwise byte for byte.

    Inside of a JSON text every quotation mark is escaped, so the place that is found is a field. It is an object of
    numbers, null and further such objects. A chunk that is written in another way is written anew.
    """
    start = event.rfind(_USAGE)
    if start >= 0:
        depth, position = 1, start + len(_USAGE)
        while depth:
            closing = event.find(b"}", position)
            if closing < 0:
                break
            depth += event.count(b"{", position, closing) - 1
            position = closing + 1
        if not depth:
            return event[:start] + event[position:]
    return _DATA + orjson.dumps({name: value for name, value in chunk.items() if name != "usage"})


def _content(event: bytes, start: int) -> bytes:
    """Return the data of an event, whose first line of them begins at a place."""
    content = event[start + len(_DATA if event.startswith(_DATA, start) else _FIELD) :]
    if b"\n" not in content:
        return content
    if content.count(b"\n") > _MOST_LINES:
        raise ValueError(f"sends an event of more than {_MOST_LINES:,} lines")
    lines = [line for line in event[start:].split(b"\n") if line.startswith(_FIELD)]
    return b"\n".join(line[len(_FIELD) :].removeprefix(b" ") for line in lines)


def _parse(content: bytes) -> dict[str, Any] | None:
    if most_values(content) > server_limits.BODY_VALUES:
        raise ValueError(f"sends an event of more than {server_limits.BODY_VALUES:,} values")
    try:
        document = orjson.loads(content) if content else None
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
