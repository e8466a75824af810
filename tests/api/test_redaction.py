"""Redaction takes linear time, and its texts stay within the room of a record, whatever rules and texts are."""

from __future__ import annotations

import json
import tracemalloc

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_api.invocation_log import Redaction
from rft_api.redaction import RedactedTooLong, redactor

ROOM = 1 << 20


def rules(*pairs):
    """A redaction with these patterns and replacements."""
    patterns = [{"pattern": pattern, "replacement": replacement} for pattern, replacement in pairs]
    return redactor(Redaction.model_validate({"patterns": patterns}))


def test_no_pattern_takes_long():
    redact = rules(("(a+)+$", "x"), (r"(\w|\w\w)*@", "x")).of_record(ROOM)
    assert redact("a" * 200_000 + "!") == "a" * 200_000 + "!"


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(".", "x" * 256), (".", "\u20ac" * 85), ("(?:)", "x" * 256), (r"\b|\B", "x" * 256), ("(.*)", r"\1" * 128)],
)
def test_a_text_that_rules_make_too_long_is_refused_before_it_is_made(pattern, replacement):
    redact = rules(*[(pattern, replacement)] * 3).of_record(ROOM)
    before = pyarrow.default_memory_pool().max_memory()
    tracemalloc.start()
    try:
        with pytest.raises(RedactedTooLong, match="is longer than 1 MiB once its texts are redacted"):
            redact("x" * 20_000)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 16 * ROOM
    assert pyarrow.default_memory_pool().max_memory() - before < 16 * ROOM


def test_all_texts_of_a_record_have_one_room():
    redactor = rules(("x", "y" * 256))
    redact = redactor.of_record(ROOM)
    for _ in range(ROOM >> 16):
        assert len(redact("x" * 256)) == 1 << 16
    with pytest.raises(RedactedTooLong):
        redact("x")
    assert redactor.of_record(ROOM)("x") == "y" * 256


def test_a_text_that_becomes_shorter_needs_no_more_room_than_it_has():
    assert rules((".", "")).of_record(ROOM)("x" * ROOM) == ""
    assert rules(("(x+)y", r"\1")).of_record(ROOM)("x" * (ROOM - 1) + "y") == "x" * (ROOM - 1)


def test_without_rules_every_text_passes():
    assert redactor(None).of_record(1)("x" * 100) == "x" * 100


@given(
    text=st.text("ab\u20ac\n ", max_size=60),
    pattern=st.sampled_from(["a", "a+", "(a)(b)?", "[^a]", "(?:)", r"\b", "^a", "(a|b)+"]),
    replacement=st.sampled_from(["", "x", "[redacted]", r"\0\0", r"<\0>"]),
    room=st.integers(1, 200),
)
def test_what_fits_is_what_re2_makes_of_it(text, pattern, replacement, room):
    redactor = rules((pattern, replacement))
    expected = redactor.of_record(1 << 30)(text)
    try:
        assert redactor.of_record(room)(text) == expected
    except RedactedTooLong:
        assert len(expected.encode()) > room or "\\" in replacement
    else:
        assert len(expected.encode()) <= room


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (r'{"name": "J\u00fcrgen", "lines": "a\nb"}', r'{"name": "NAME", "lines": "a\nb"}'),
        (r'{"to": "bob\u0040example.com"}', '{"to": "MAIL"}'),
        (r'{"again": "{\"name\": \"J\\u00FCrgen\"}"}', r'{"again": "{\"name\": \"NAME\"}"}'),
        (r'["\ud83d\ude00", "\/"]', '["FACE", "/"]'),
    ],
)
def test_what_json_writes_as_an_escape_is_found(text, redacted):
    redact = rules(("Jürgen", "NAME"), (r"\w+@[\w.]+", "MAIL"), ("😀", "FACE")).of_record(ROOM)
    assert redact(text) == redacted
    json.loads(redacted)


@pytest.mark.parametrize("text", [r'{"a": "\u00e4\u0022\u000a\ud83d"}', r"C:\users\u12", "\\" * 10 + "u"])
def test_a_text_without_anything_to_redact_keeps_its_escapes(text):
    assert rules(("secret", "x")).of_record(ROOM)(text) == text


def test_an_escape_that_json_needs_stays_where_something_is_redacted():
    redacted = rules(("Jürgen", "NAME")).of_record(ROOM)(r'{"a": "J\u00fcrgen \u0022\u000a\u005c\ud83d"}')
    assert redacted == r'{"a": "NAME \u0022\u000a\u005c\ud83d"}'


@pytest.mark.parametrize("text", ["\\", "\\u", "\\ud83d", "\\\\u00"])
def test_many_backslashes_take_no_time(text):
    many = text * (ROOM // 8)
    assert rules(("secret", "x")).of_record(ROOM)(many) == many
