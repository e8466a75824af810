"""Streams on their way to a client: byte for byte what the server would have sent, had nobody asked for usage."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_gateway import server_errors
from rft_gateway.requests import Api, read_call
from rft_gateway.streams import EVENT_BYTES, EventStream, without_usage
from rft_gateway.usage import StreamTally, Usage

DONE = b"data: [DONE]\n\n"
TEXTS = ["", "Hi", ' "usage":{"prompt_tokens":1}', ',"usage":{}}', "ü\n\n\u2028 data: [DONE]", '\\",']


def compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


def chunks(usage: bool, final: bool) -> bytes:
    """A stream as vLLM writes it, with usage in each chunk or not, and with the usage of all or not."""
    events = []
    for number, text in enumerate(TEXTS):
        document = {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": {"content": text}}]}
        if usage:
            document["usage"] = {
                "prompt_tokens": 5,
                "completion_tokens": number,
                "prompt_tokens_details": {"cached_tokens": 0, "multimodal_tokens": {"image": 1}},
                "completion_tokens_details": None,
            }
        if number == 0:
            document["prompt_text"] = None
        events.append(compact(document))
    if final:
        total = {"prompt_tokens": 5, "total_tokens": 11, "completion_tokens": 6}
        events.append(compact({"id": "chatcmpl-1", "model": "m", "choices": [], "usage": total}))
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


def stream(options: dict[str, object] | None = None, api: Api = Api.CHAT) -> EventStream:
    body = compact({"model": "m", "stream": True, "stream_options": options}).encode()
    return EventStream(read_call(api, body), StreamTally(), server_errors.from_event)


def everything(events: EventStream, data: bytes) -> bytes:
    """What a client gets of data that arrives at once."""
    passed = events.feed(data)
    while events.has_more:
        passed += events.go_on()
    return passed


def feed(events: EventStream, data: bytes, cuts: list[int]) -> bytes:
    """What a client gets of data that arrives in pieces."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(events.feed(data[start:end]) for start, end in pairwise(places)) + events.held


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_nobody_sees_usage_that_was_not_asked_for(cuts):
    events = stream()
    assert feed(events, chunks(usage=True, final=True), cuts) == chunks(usage=False, final=False)
    assert events.held == b"data: [DONE]\n\n"
    assert events.is_complete


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_whoever_asks_for_usage_gets_that_of_the_whole_stream(cuts):
    passed = feed(stream({"include_usage": True}), chunks(usage=True, final=True), cuts)
    assert passed == chunks(usage=False, final=True)


def test_whoever_asks_for_continuous_usage_gets_everything():
    sent = chunks(usage=True, final=True)
    assert feed(stream({"include_usage": True, "continuous_usage_stats": True}), sent, []) == sent


def test_usage_is_counted_while_it_passes():
    tally = StreamTally()
    events = EventStream(read_call(Api.CHAT, b'{"model":"m","stream":true}'), tally, server_errors.from_event)
    events.feed(chunks(usage=True, final=True))
    assert tally.usage() == Usage(5, 0, 6)


@given(cuts=st.lists(st.integers(0, 10_000), max_size=20) | st.just(list(range(10_000))))
def test_other_line_ends_and_comments_pass(cuts):
    sent = b": keep-alive\r\n\r\n" + chunks(usage=True, final=True).replace(b"\n\n", b"\r\n\r\n")
    assert feed(stream(), sent, cuts) == b": keep-alive\n\n" + chunks(False, False)


def test_events_are_read_in_all_forms_that_the_standard_allows():
    usage = {"prompt_tokens": 5, "completion_tokens": 1}
    first = {"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": usage}
    plain = compact({"choices": first["choices"]})
    total = compact({"choices": [], "usage": {**usage, "completion_tokens": 2}})
    lines = ["data:{}\n\n", "id: 1\ndata:{}\nid: 1\n\n", "data: {}\nretry: 5\n\n"]
    for line in lines:
        tally = StreamTally()
        events = EventStream(read_call(Api.CHAT, b'{"model":"m","stream":true}'), tally, server_errors.from_event)
        sent = line.replace("{}", compact(first)) + line.replace("{}", total) + line.replace("{}", "[DONE]")
        assert events.feed(sent.encode()).decode() == line.replace("{}", plain)
        assert events.held.decode() == line.replace("{}", "[DONE]")
        assert events.is_complete
        assert tally.usage() == Usage(5, 0, 2)
    tally = StreamTally()
    events = EventStream(read_call(Api.CHAT, b'{"model":"m","stream":true}'), tally, server_errors.from_event)
    events.feed(f"data: {total[:1]}\ndata:{total[1:]}\n\n".encode())
    assert tally.usage() == Usage(5, 0, 2)


class Data(bytes):
    """What a server sends, and how many bytes are copied when something is put before it."""

    copied = 0

    def __radd__(self, before: bytes) -> bytes:
        Data.copied += len(before) + len(self)
        return bytes(before) + bytes(self)


def test_the_time_of_an_event_grows_with_its_size_only(monkeypatch):
    monkeypatch.setattr(Data, "copied", 0)
    events, part = stream(), b"x" * 1000
    sent = b'data: {"choices":[],"x":"' + part * 1000 + b'"}\n\n'
    passed = b"".join(events.feed(Data(sent[start : start + 1000])) for start in range(0, len(sent), 1000))
    assert passed == sent
    assert len(sent) <= Data.copied < 2 * len(sent)


def test_a_chunk_that_is_written_in_another_way_loses_its_usage_too():
    chunk = {"choices": [{"index": 0}], "usage": {"prompt_tokens": 1}}
    passed = without_usage(f"data: {json.dumps(chunk)}".encode(), chunk)
    assert passed == b'data: {"choices":[{"index":0}]}'


def test_an_error_in_the_middle_gets_openais_form():
    events = stream()
    error = {"error": {"message": "out of memory", "type": "InternalServerError", "param": None, "code": 500}}
    assert events.feed(f"data: {compact(error)}\n\ndata: [DONE]\n\n".encode()) == b""
    stated, done, _ = events.held.split(b"\n\n")
    assert done == b"data: [DONE]"
    assert json.loads(stated.removeprefix(b"data: ")) == {
        "error": {"message": "out of memory", "type": "server_error", "param": None, "code": "server_error"}
    }
    assert events.error is not None


def test_the_last_event_of_a_response_waits():
    events = stream(api=Api.RESPONSES)
    first = b'event: response.output_text.delta\ndata: {"delta":"x","type":"response.output_text.delta"}\n\n'
    usage = {"input_tokens": 3, "output_tokens": 1}
    last = compact({"response": {"usage": usage}, "type": "response.completed"})
    final = f"event: response.completed\ndata: {last}\n\n".encode()
    assert events.feed(first + final) == first
    assert events.held == final
    assert events.is_complete


def test_an_event_without_an_end_is_limited(monkeypatch):
    monkeypatch.setattr("rft_gateway.streams.EVENT_BYTES", 1000)
    for end in (b"", b"\n\n"):
        with pytest.raises(ValueError, match="an event of more than"):
            stream().feed(b"data: " + b"x" * 2000 + end)
    whole = b"data: " + b"x" * 900 + b"\n\n"
    assert stream().feed(whole) == whole


def test_events_may_repeat_the_request():
    call = read_call(Api.COMPLETIONS, compact({"model": "m", "prompt": "x" * EVENT_BYTES}).encode())
    echo = b"data: " + compact({"choices": [{"index": 0, "text": "x" * EVENT_BYTES}]}).encode() + b"\n\n"
    assert EventStream(call, StreamTally(), server_errors.from_event).feed(echo) == echo


@pytest.mark.parametrize("kind", ["completed", "incomplete"])
def test_the_last_event_of_a_response_may_be_large_and_is_left_to_others(kind):
    response = {"output": "x" * 3 * EVENT_BYTES, "usage": {"input_tokens": 3, "output_tokens": 1}}
    content = compact({"response": response, "type": f"response.{kind}"}).encode()
    final = f"event: response.{kind}\ndata: ".encode() + content + b"\n\n"
    events = stream(api=Api.RESPONSES)
    for start in range(0, len(final), 1 << 16):
        assert events.feed(final[start : start + (1 << 16)]) == b""
    assert (events.held, events.large_content, events.is_complete) == (final, content, True)
    for other in (stream(), stream(api=Api.COMPLETIONS)):
        with pytest.raises(ValueError, match="an event of more than"):
            other.feed(final)
    with pytest.raises(ValueError, match="an event of more than"):
        stream(api=Api.RESPONSES).feed(final.replace(b"event: ", b"event:  "))


def test_the_last_event_of_a_response_is_limited_too(monkeypatch):
    monkeypatch.setattr("rft_gateway.streams.LAST_EVENT_BYTES", 2 * EVENT_BYTES)
    events = stream(api=Api.RESPONSES)
    events.feed(b"event: response.completed\ndata: ")
    for _ in range(31):
        events.feed(b"x" * (1 << 16))
    with pytest.raises(ValueError, match="an event of more than"):
        events.feed(b"x" * (1 << 16))


def test_an_event_of_too_many_lines_is_not_split():
    assert stream().feed(b"data:\n" * 500 + b"\n")
    with pytest.raises(ValueError, match="an event of more than 1,024 lines"):
        stream().feed(b"data:\n" * 5000 + b"\n")


@pytest.mark.parametrize("event", [b":\n\n", b"\n\n", b"data:{}\n\n", b'data: {"choices":[]}\n\n'])
def test_too_many_small_events_end_a_stream(event):
    with pytest.raises(ValueError, match="events of fewer than"):
        everything(stream(), event * 20_000)
    assert everything(stream(), event * 4000) == event * 4000


def test_the_shortest_chunks_are_not_too_small():
    chunk = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n'
    assert everything(stream(api=Api.COMPLETIONS), chunk * 50_000) == chunk * 50_000


def test_many_events_that_come_together_are_passed_on_bit_by_bit():
    sent = chunks(usage=True, final=False).removesuffix(b"data: [DONE]\n\n") * 100 + b"data: [DONE]\r\n\r\n"
    events = stream()
    first = events.feed(sent)
    assert events.has_more
    assert 0 < len(first) < len(sent) // 2
    while events.has_more:
        first += events.go_on()
    assert first + events.held == chunks(usage=False, final=False).removesuffix(DONE) * 100 + DONE
    assert events.is_complete


def test_what_is_held_of_an_event_is_counted_once():
    counted: list[int] = []
    call = read_call(Api.CHAT, b'{"model":"m","stream":true}')
    events = EventStream(call, StreamTally(), server_errors.from_event, take=counted.append)
    events.feed(chunks(usage=True, final=False))
    assert not counted
    for _ in range(3):
        for _ in range(10):
            events.feed(b": " + b"x" * 998)
        events.feed(b"\n\n")
    assert len(counted) == 10
    assert 9_900 < sum(counted) <= 10_000


def test_an_event_that_is_nested_too_deeply_is_refused():
    deep = "[" * 500 + "]" * 500
    with pytest.raises(ValueError, match="nested"):
        stream().feed(f'data: {{"choices":[{{"index":0,"text":"x"}}],"x":{deep}}}\n\n'.encode())


@pytest.mark.parametrize("last", [b"data: [DONE]\n\n", b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n'])
def test_what_comes_behind_the_end_is_dropped(last):
    events = stream()
    events.feed(last)
    held = events.held
    for _ in range(3):
        assert events.feed(b'data: {"choices":[{"index":0}]}\n\n: comment\n\ndata: [DONE]\n\n') == b""
    assert events.held == held
    assert held.endswith(b"data: [DONE]\n\n")


def test_an_event_of_too_many_values_is_not_parsed():
    call = read_call(Api.CHAT, compact({"model": "m", "messages": "x" * (8 << 20)}).encode())
    events = EventStream(call, StreamTally(), server_errors.from_event)
    with pytest.raises(ValueError, match="values"):
        events.feed(b'data: {"choices":[' + b"[]," * 2_000_000 + b"[]]}\n\n")
