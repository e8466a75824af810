"""The answer of a stream for the log: what a server sends in any of its fields takes a bounded memory, and counts."""

from __future__ import annotations

import pytest

from rft_api.invocation_lines import MAXIMUM_BYTES
from rft_gateway.errors import overloaded
from rft_gateway.logs import Assembly

LONG = "x" * 300


def chunk(index: int = 0, finish: object = "stop", **delta: object) -> dict[str, object]:
    choice = {"index": index, "delta": {"content": "a", **delta}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}


def call(index: int = 0, **fields: object) -> list[dict[str, object]]:
    return [{"index": index, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}]


@pytest.mark.parametrize(
    "document",
    [
        chunk(finish=LONG),
        chunk(role=LONG),
        chunk(tool_calls=call(id=LONG)),
        chunk(tool_calls=call(type=LONG)),
        chunk(tool_calls=call(function={"name": LONG})),
        {**chunk(), "id": LONG},
        {**chunk(), "object": LONG},
    ],
)
def test_a_name_that_is_a_text_makes_the_answer_too_large(document):
    assembly = Assembly()
    assembly.add(document, 1000)
    assert assembly.is_too_large
    assert assembly.answer() is None


@pytest.mark.parametrize(
    "document", [chunk(finish=[LONG]), {**chunk(), "id": {"x": LONG}}, {**chunk(), "created": LONG}, chunk(role=[LONG])]
)
def test_a_name_of_another_type_is_ignored(document):
    assembly = Assembly()
    assembly.add(chunk(), 100)
    assembly.add(document, 1000)
    answer = assembly.answer()
    assert answer is not None
    assert LONG not in str(answer)


def test_completions_and_calls_count_without_a_text():
    assembly = Assembly()
    for index in range(4096):
        calls = [part for number in range(16) for part in call(number, function={})]
        assembly.add(chunk(index, content="", tool_calls=calls), 1000)
    assert assembly.is_too_large
    assert assembly.answer() is None


def test_a_large_usage_is_not_kept():
    assembly = Assembly()
    assembly.add({**chunk(), "usage": {"prompt_tokens": 1}}, 1000)
    assembly.add({**chunk(), "usage": {"x": [0] * 100_000}}, 200_000)
    answer = assembly.answer()
    assert answer is not None
    assert answer["usage"] == {"prompt_tokens": 1}


def test_what_is_held_is_counted_and_forgotten_where_there_is_no_room():
    taken: list[int] = []
    assembly = Assembly(taken.append)
    for _ in range(100):
        assembly.add(chunk(content="x" * 1000), 1100)
    assert 4 * 80_000 < sum(taken) < 4 * 110_000

    def refuse(_size: int) -> None:
        raise overloaded("no room")

    full = Assembly(refuse)
    for _ in range(100):
        full.add(chunk(content="x" * 1000), 1100)
    assert full.is_too_large
    assert full.answer() is None


def test_a_text_of_the_largest_line_is_too_large():
    assembly = Assembly()
    for _ in range(9):
        assembly.add(chunk(content="x" * (MAXIMUM_BYTES // 8)), MAXIMUM_BYTES // 8)
    assert assembly.is_too_large
