"""Tokens from answers and chunks, of servers that say them in OpenAI's or vLLM's way, or not at all."""

from __future__ import annotations

import pytest

from rft_gateway.usage import MOST_TOKENS, Bounds, StreamTally, Usage, usage_of


def chunk(index: int, prompt: int | None = None, completion: int = 0) -> dict[str, object]:
    usage = None if prompt is None else {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [{"index": index, "delta": {"content": "x"}}], "usage": usage}


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}, Usage(5, 0, 2)),
        ({"usage": {"prompt_tokens": 5, "total_tokens": 5}}, Usage(5, 0, 0)),  # embeddings
        (
            {"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}},
            Usage(5, 4, 2),
        ),
        (
            {"usage": {"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 3}}},
            Usage(5, 3, 2),
        ),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}}, Usage(5, 0, 2)),
        ({"usage": None}, None),
        ({}, None),
        ([], None),
        # what no server of ours sends, and must not become somebody's bill
        ({"usage": {"prompt_tokens": -5, "completion_tokens": True}}, Usage(MOST_TOKENS, 0, MOST_TOKENS)),
        ({"usage": {"prompt_tokens": "5", "completion_tokens": 10**30}}, Usage(MOST_TOKENS, 0, MOST_TOKENS)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}}, Usage(3, 3, 0)),
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": -9}}}, Usage(3, 0, 0)),
    ],
)
def test_usage_of_an_answer(document, usage):
    assert usage_of(document) == usage


def test_usages_are_added():
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)


def test_the_last_chunk_has_the_usage_of_all_completions():
    tally = StreamTally(Bounds(completions=2))
    for index in (0, 1):
        tally.add_chunk(chunk(index, 7, 3))
    assert not tally.is_complete
    tally.add_chunk({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6}})
    assert tally.is_complete
    assert tally.usage() == Usage(7, 0, 6)


def test_a_stream_that_breaks_off_counts_what_each_completion_had():
    tally = StreamTally(Bounds(completions=2))
    for index, tokens in ((0, 1), (1, 1), (0, 2), (1, 2), (0, 3)):
        tally.add_chunk(chunk(index, 7, tokens))
    assert tally.usage() == Usage(7, 0, 5)


def test_each_prompt_of_completions_counts_once():
    tally = StreamTally(Bounds(prompts=2, completions=2))
    prompts = {0: 4, 1: 4, 2: 9, 3: 9}
    for index, prompt in prompts.items():
        tally.add_chunk(chunk(index, prompt, 2))
    assert tally.usage() == Usage(13, 0, 8)


def test_parts_count_as_tokens_where_a_server_states_no_usage():
    tally = StreamTally(prompt_estimate=11)
    assert tally.usage() == Usage()
    for _ in range(3):
        tally.add_chunk(chunk(0))
    assert tally.usage() == Usage(11, 0, 3)


def test_events_of_responses():
    tally = StreamTally(prompt_estimate=11)
    tally.add_event({"type": "response.created", "response": {"usage": None}})
    assert tally.usage() == Usage()
    for kind in ("output_text", "reasoning_text", "function_call_arguments"):
        tally.add_event({"type": f"response.{kind}.delta", "delta": "x"})
    tally.add_event({"type": "response.output_text.done", "text": "xxx"})
    assert tally.usage() == Usage(11, 0, 3)
    usage = {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}}
    tally.add_event({"type": "response.completed", "response": {"usage": usage}})
    assert tally.usage() == Usage(9, 1, 4)


def test_completions_that_nobody_has_asked_for_are_not_counted():
    tally = StreamTally(Bounds(prompts=2, completions=3))
    for index in range(70_000):
        tally.add_chunk(chunk(index, 1, 1))
    assert tally.usage() == Usage(2, 0, 6)
    assert tally.is_doubtful


def test_completions_of_a_stream_are_bounded_whatever_was_asked_for():
    tally = StreamTally(Bounds(prompts=MOST_TOKENS, completions=MOST_TOKENS))
    for index in range(70_000):
        tally.add_chunk(chunk(index, 1, 1))
    assert tally.usage().completion_tokens == 1 << 16


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 1 << 24}, {"completion_tokens": 1 << 24}, {"prompt_tokens": -1}, {"input_tokens": "x"}]
)
def test_tokens_that_a_request_cannot_have_are_doubtful_and_not_counted(usage):
    tally = StreamTally(prompt_estimate=11)
    tally.add_chunk({**chunk(0), "usage": usage})
    assert tally.is_doubtful
    tally = StreamTally(prompt_estimate=11)
    tally.add_chunk(chunk(0))
    tally.add_chunk({"choices": [], "usage": usage})
    assert (tally.usage(), tally.is_complete, tally.is_doubtful) == (Usage(11, 0, 1), False, True)


def test_bounds_grow_with_what_is_asked_for_and_have_an_end():
    context = 1 << 24
    assert Bounds().allow(Usage(context - 1, 0, context - 1))
    assert not Bounds().allow(Usage(0, 0, context))
    assert Bounds(prompts=2, completions=3).allow(Usage(2 * context - 1, 0, 6 * context - 1))
    assert not Bounds(prompts=2, completions=3).allow(Usage(2 * context, 0, 0))
    assert not Bounds(MOST_TOKENS, MOST_TOKENS).allow(Usage(0, 0, MOST_TOKENS))
