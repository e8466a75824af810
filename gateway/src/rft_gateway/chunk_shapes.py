"""The shape of a stream's chunks: most of them differ in a text and two counters only, and need not be parsed.

A server writes thousands of chunks, each of which repeats some 300 bytes around a word. When one of them has been
parsed, its shape tells the next ones apart byte for byte. What does not have exactly this shape is parsed.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import orjson

from rft_gateway.usage import Usage, usage_of

LARGEST_CHUNK = 1 << 16
"""Largest chunk in bytes that is compared with a shape. Larger ones are parsed, within the limits for that."""
_DATA = b"data: "
_TEXT = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+')
"""The inside of a JSON text, without characters that are written as numbers: not all of these are characters."""
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,11})")
"""A counter. What has more digits is no number of tokens, and is left to those who parse it."""
_COUNTERS = ("total_tokens", "completion_tokens")
"""The counters of vLLM's usage that grow from chunk to chunk."""
_TEXT_MARK = secrets.token_hex(16)
_COUNTER_MARKS = {name: secrets.randbits(40) + (1 << 60) for name in _COUNTERS}
"""Stand for what differs, while a shape is made. They are secret, so that no chunk has them already."""


class ChunkShape:
    """What chunks of one completion have in common; made by `shape_of`.

    Args:
        index: the number of the completion.
        usage: the usage of one of the chunks, if they state any.
        head: the bytes before the text.
        middle: those after the text and before the first counter, and the place in them where the usage begins.
        between: those between the two counters.
        tail: those after the second counter, and the place in them where the usage has ended. Without usage, the bytes
            after the text, and 0.
        is_total_first: whether the total is the first counter.
    """

    __slots__ = ("_between", "_head", "_is_total_first", "_middle", "_tail", "_usage", "index")

    def __init__(
        self, index: int, usage: Usage | None, head: bytes, middle: tuple[bytes, int], between: bytes,
        tail: tuple[bytes, int], is_total_first: bool,
    ):  # fmt: skip
        self.index = index
        self._usage = usage
        self._head = head
        self._middle = middle
        self._between = between
        self._tail = tail
        self._is_total_first = is_total_first

    def compare(self, event: bytes) -> tuple[Usage | None, bytes] | None:
        """Compare an event, without the empty line at its end, with the shape.

        Returns:
            the tokens so far that it states, and the event without them but otherwise byte for byte; None if it has
            another shape, so that it has to be parsed.
        """
        if not event.startswith(self._head) or len(event) > LARGEST_CHUNK or not _is_unicode(event):
            return None
        text_end = _end_of(_TEXT, event, len(self._head))
        tail, usage_end = self._tail
        usage = self._usage
        if usage is None:
            return (None, event) if event[text_end:] == tail else None
        middle, usage_start = self._middle
        if not event.startswith(middle, text_end):
            return None
        first = text_end + len(middle)
        first_end = _end_of(_NUMBER, event, first)
        second = first_end + len(self._between)
        second_end = _end_of(_NUMBER, event, second)
        if first_end == first or second_end == second or not event.startswith(self._between, first_end):
            return None
        if event[second_end:] != tail:
            return None
        completion = event[second:second_end] if self._is_total_first else event[first:first_end]
        plain = event[: text_end + usage_start] + tail[usage_end:]
        return Usage(usage.prompt_tokens, usage.cached_tokens, int(completion)), plain


def shape_of(event: bytes, chunk: dict[str, Any]) -> ChunkShape | None:
    """Return the shape of a chunk of chat or completions; None if it is none of those that repeat.

    Such a chunk is written as vLLM writes it. It has one text of one completion, and either no usage or vLLM's counters
    behind it.

    Args:
        event: the chunk's event, without the empty line at its end.
        chunk: the chunk, parsed.
    """
    if event != _DATA + orjson.dumps(chunk):
        return None  # other spaces, or a field twice
    choice = _marked_choice(chunk.get("choices"))
    if choice is None:
        return None
    marked = {**chunk, "choices": [choice]}
    usage = usage_of(chunk)
    if usage is not None:
        counters = [name for name in chunk["usage"] if name in _COUNTERS and type(chunk["usage"][name]) is int]
        if len(counters) != len(_COUNTERS) or "input_tokens" in chunk["usage"]:
            return None
        marked["usage"] = {**chunk["usage"], **_COUNTER_MARKS}
    elif chunk.get("usage") is not None:
        return None
    head, text_mark, rest = (_DATA + orjson.dumps(marked)).partition(_TEXT_MARK.encode())
    if not text_mark:
        return None
    if usage is None:
        return ChunkShape(choice["index"], None, head, (b"", 0), b"", (rest, 0), is_total_first=True)
    stated = b',"usage":' + orjson.dumps(marked["usage"])
    before, usage_text, after = rest.partition(stated)
    if not usage_text:
        return None  # the usage is before the text
    opening, between, closing = _split(stated, [str(_COUNTER_MARKS[name]).encode() for name in counters])
    return ChunkShape(
        choice["index"], usage, head, (before + opening, len(before)), between, (closing + after, len(closing)),
        is_total_first=counters[0] == "total_tokens",
    )  # fmt: skip


def _marked_choice(choices: Any) -> dict[str, Any] | None:
    """Return the one choice of a chunk with a mark in place of its text; None if there is not one text."""
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict) or type(choice.get("index")) is not int or not 0 <= choice["index"] < 1 << 16:
        return None
    delta = choice.get("delta")
    if isinstance(delta, dict) and len(delta) == 1:
        ((name, text),) = delta.items()
        return {**choice, "delta": {name: _TEXT_MARK}} if isinstance(text, str) else None
    return {**choice, "text": _TEXT_MARK} if delta is None and isinstance(choice.get("text"), str) else None


def _split(text: bytes, marks: list[bytes]) -> tuple[bytes, bytes, bytes]:
    opening, _, rest = text.partition(marks[0])
    between, _, closing = rest.partition(marks[1])
    return opening, between, closing


def _end_of(pattern: re.Pattern[bytes], text: bytes, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


def _is_unicode(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
