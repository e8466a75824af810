"""Chunks that are compared with a shape: counted and passed on exactly as if each of them had been parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import Any

import orjson
import pytest

from rft_gateway import server_errors, streams
from rft_gateway.chunk_shapes import LARGEST_CHUNK, shape_of
from rft_gateway.logs import Assembly
from rft_gateway.requests import Api, read_call
from rft_gateway.streams import EventStream
from rft_gateway.usage import Bounds, StreamTally, Usage

STREAMS, EVENTS = 3000, 20_000
"""How many streams, and events beside them, are compared."""
TEXTS = [
    "", "a", " word", "Wort " * 30, "\n", '"', "\\", ',"usage":{', "}", "ü", "\x00", "\x7f", "\ud7ff", "😀", "a/b",
]  # fmt: skip
DETAILS = [None, {"cached_tokens": 3}, {"cached_tokens": 3, "multimodal_tokens": {"image": 1}}, {"x": "}"}]
OPTIONS = [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]


def chat_chunk(text: str = "word", tokens: int = 2, **more: object) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, "token_ids": None}
    usage = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return {**chunk, "usage": {**usage, "completion_tokens_details": None}, **more}


def event_of(chunk: object) -> bytes:
    return b"data: " + orjson.dumps(chunk)


def parsed(event: bytes):
    """The usage that an event states, and the event without it, as parsing finds them."""
    chunk = orjson.loads(event.removeprefix(b"data: "))
    usage = StreamTally().add_chunk(chunk)
    return usage, event if usage is None else streams.without_usage(event, chunk)


def parse_all(event: bytes, chunk: object) -> None:
    """In place of `shape_of`: every chunk is parsed."""


def chunk_of(random: Random, completions: int) -> dict[str, Any]:
    """A chunk of chat or completions, often with the same fields as the others, and rarely with surprising ones."""
    index, text, tokens = random.randrange(completions), random.choice(TEXTS), random.randrange(2000)
    is_chat = random.random() < 0.9
    choice = {"index": index, "delta": {"content": text}} if is_chat else {"index": index, "text": text}
    choice |= {"logprobs": None, "finish_reason": None}
    usage = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
    chunk = {"id": "1", "model": "m", "choices": [choice], "usage": usage}
    match random.randrange(25):
        case 0:
            choice["finish_reason"] = "stop"
        case 1:
            choice["delta"] = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        case 2:
            choice["delta"] = {"role": "assistant", "content": text}
        case 3:
            chunk["choices"] = [choice, {**choice, "index": completions}]
        case 4:
            usage["prompt_tokens_details"] = random.choice(DETAILS)
        case 5:
            chunk["usage"] = random.choice([None, {}, [], {"input_tokens": 2, "output_tokens": 3, **usage}])
        case 6:
            del chunk["usage"]
        case 7:
            chunk["usage"] = dict(reversed(usage.items()))
        case 8:
            usage["completion_tokens"] = random.choice([-1, 10**12, 1 << 62, 1.0, True, "5", None])
        case 9:
            usage["prompt_tokens"] = random.randint(-1, 9)
        case 10:
            chunk = {**dict(reversed(chunk.items())), "more": {"x": 1, "usage": {"y": 2}}}
        case 11:
            chunk["error"] = random.choice([None, {"message": "out of memory", "code": 500}])
        case 12:
            chunk["choices"] = []
        case 13:
            choice["index"] = random.choice([True, -1, 1 << 20, "0", None])
        case 14:
            choice["delta"] = random.choice([{}, None, {"reasoning": text}, {"content": None}])
    return chunk


def sent_event(random: Random, completions: int) -> bytes:
    """An event with its end, as servers write them, and as they should not."""
    chunk = chunk_of(random, completions)
    match random.randrange(25):
        case 0:
            return b": comment\n\n"
        case 1:
            return b"event: chunk\n" + event_of(chunk) + b"\n\n"
        case 2:
            return b"data: " + json.dumps(chunk).encode() + b"\n\n"
        case 3:
            return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
        case 4:
            return event_of(chunk)[:-1] + b',"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}}\n\n'
        case 5:
            return event_of({"error": {"message": "out of memory", "code": 500}}) + b"\n\n"
        case 6:
            return event_of(chunk).replace(b"w", b"\xff\xed\xa0\x80") + b"\n\n"
        case 7:
            return event_of(chunk) + random.choice([b"\nid: 1\n\n", b"\r\n\r\n", b" \n\n", b"}\n\n"])
        case 8:
            return random.choice([b"data: [DONE]\n\n", b"data: {\n\n", b"data:\n\n", b"\n\n", b"\0\n\n"])
    return event_of(chunk) + b"\n\n"


def sent_stream(random: Random) -> list[bytes]:
    """What a server sends in a stream: the events, some bytes of which are others, and where the pieces end."""
    completions = random.randint(1, 2)
    sent = b"".join(sent_event(random, completions) for _ in range(random.randint(3, 12))) + b"data: [DONE]\n\n"
    if random.random() < 0.3:
        sent = garbled(random, sent)
    if random.random() < 0.1:
        sent = sent.replace(b"\n", b"\r\n")
    cuts = [random.randint(0, len(sent)) for _ in range(random.randint(0, 8))]
    return [sent[start:end] for start, end in pairwise(sorted({0, len(sent), *cuts}))]


def garbled(random: Random, sent: bytes) -> bytes:
    """The same with another byte in one or two places."""
    changed = bytearray(sent)
    for _ in range(random.randint(1, 2)):
        changed[random.randrange(len(sent))] = random.randrange(256)
    return bytes(changed)


def outcome(api: Api, options: object, pieces: list[bytes], wants_assembly: bool):
    """All that the gateway makes of a stream."""
    body = orjson.dumps({"model": "m", "stream": True, "stream_options": options, "n": 2})
    tally, assembly = StreamTally(Bounds(completions=2), 9), Assembly() if wants_assembly else None
    stream = EventStream(read_call(api, body), tally, server_errors.from_event, assembly)
    steps: list[object] = []
    for piece in pieces:
        try:
            steps.append(stream.feed(piece))
        except Exception as error:
            steps.append(repr(error))
            break
        steps.append((tally.usage(), tally.is_complete))
    error = stream.error and stream.error.body()
    return steps, stream.held, stream.is_complete, error, assembly and assembly.answer()


def test_a_stream_is_the_same_as_if_each_chunk_were_parsed(monkeypatch):
    learned = [outcome(*case) for case in cases()]
    monkeypatch.setattr(streams, "shape_of", parse_all)
    for seed, (case, result) in enumerate(zip(cases(), learned, strict=True)):
        assert result == outcome(*case), (seed, case)


def cases() -> Iterator[tuple[Api, object, list[bytes], bool]]:
    """Streams of many kinds, always the same ones."""
    for seed in range(STREAMS):
        random = Random(seed)
        api = random.choice([Api.CHAT, Api.CHAT, Api.COMPLETIONS, Api.RESPONSES])
        yield api, random.choice(OPTIONS), sent_stream(random), random.random() < 0.2


def test_an_event_that_has_the_shape_says_what_it_says_when_parsed():
    count = 0
    for seed in range(EVENTS):
        random = Random(seed)
        first = chunk_of(random, 1)
        shape = shape_of(event_of(first), first)
        if shape is None or shape.compare(event_of(first)) != parsed(event_of(first)):
            continue  # a stream does not learn it
        event = event_of(chunk_of(random, 1))
        event = garbled(random, event) if random.random() < 0.5 else event
        alike = shape.compare(event)
        if alike is not None:
            count += 1
            assert alike == parsed(event), (seed, event)
            chunk = orjson.loads(event.removeprefix(b"data: "))
            assert chunk["choices"][0]["index"] == shape.index
            assert bool(chunk.get("error")) == bool(first.get("error"))
    assert count > EVENTS / 20  # the others differ


@pytest.fixture
def parses(monkeypatch):
    """The contents that are parsed."""
    contents = []
    parse = streams._parse
    monkeypatch.setattr(streams, "_parse", lambda content: contents.append(content) or parse(content))
    return contents


@pytest.mark.parametrize("options", OPTIONS)
def test_of_chunks_that_are_alike_only_the_first_is_parsed(options, parses):
    body = orjson.dumps({"model": "m", "stream": True, "stream_options": options})
    tally = StreamTally()
    stream = EventStream(read_call(Api.CHAT, body), tally, server_errors.from_event)
    chunks = [chat_chunk(text, number) for number, text in enumerate(["a", "ü", "\n", '"', "\\", "/", "😀"], 98)]
    for chunk in chunks:
        passed = stream.feed(event_of(chunk) + b"\n\n").removesuffix(b"\n\n")
        if options != OPTIONS[2]:
            del chunk["usage"]
        assert passed == event_of(chunk)
    assert len(parses) == 1
    assert tally.usage() == Usage(7, 0, 104)


def test_chunks_without_usage_are_alike_too(parses):
    stream = EventStream(
        read_call(Api.CHAT, b'{"model":"m","stream":true}'), tally := StreamTally(prompt_estimate=5), None
    )
    for _ in range(3):
        event = event_of(chat_chunk(usage=None)) + b"\n\n"
        assert stream.feed(event) == event
    assert len(parses) == 1
    assert tally.usage() == Usage(5, 0, 3)


def test_a_stream_whose_chunks_are_never_alike_makes_few_shapes(monkeypatch):
    made = []
    monkeypatch.setattr(streams, "shape_of", lambda event, chunk: made.append(event))
    stream = EventStream(read_call(Api.CHAT, b'{"model":"m","stream":true}'), StreamTally(), None)
    for number in range(100):
        stream.feed(event_of(chat_chunk(id=str(number))) + b"\n\n")
    assert len(made) == streams._SHAPES


def test_a_large_chunk_is_parsed_within_its_limits():
    shape = shape_of(event_of(chat_chunk()), chat_chunk())
    assert shape.compare(event_of(chat_chunk("x" * 1000))) is not None
    assert shape.compare(event_of(chat_chunk("x" * LARGEST_CHUNK))) is None
