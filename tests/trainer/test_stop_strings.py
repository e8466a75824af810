"""Stop strings are found in the text of the tokens, token by token, and nothing else ends a completion."""

from types import SimpleNamespace

import pytest
from support.qwen3 import write_qwen3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rft_api.exit_codes import ExitCode, RunError
from rft_trainer.stop_strings import StopStrings


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    return AutoTokenizer.from_pretrained(write_qwen3(tmp_path_factory.mktemp("qwen3")))


def of_words(*words):
    """A tokenizer whose tokens are words with the space before them, as those of Llama 2."""
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["</s>", *words])}, "</s>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


@pytest.mark.parametrize(
    ("text", "stops", "before"),
    [
        ("one two three", ["two"], "one two"),
        ("one two three", ["three", "e t"], "one t"),
        ("one two three", ["four"], None),
        ("aaab aab", ["aab"], "aaab"),
        # Two bytes and three: a character is there when its last byte is.
        ("naïve €5", ["ï"], "naï"),
        ("naïve €5", ["€5"], "naïve €5"),
        ("a<|im_start|>b", ["<|im_start|>"], "a<|im_start|>"),
        ("a<think>b", [">b"], "a<think>b"),
        ("a\n\nb", ["\n\n"], "a\n\n"),
    ],
)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(of_bytes, text, stops, before):
    ids = of_bytes(text, add_special_tokens=False)["input_ids"]
    end = StopStrings(of_bytes, stops).end(ids)
    assert (None if end is None else ids[:end]) == (
        None if before is None else of_bytes(before, add_special_tokens=False)["input_ids"]
    )


def test_bytes_that_are_no_characters_hide_nothing(of_bytes):
    """The bytes of characters are cut in two, as random weights do it."""
    cut = of_bytes("€", add_special_tokens=False)["input_ids"]
    stop = of_bytes("stop", add_special_tokens=False)["input_ids"]
    for broken in (cut[1:] * 3, [cut[0]] * 5, [*cut[:2], *stop[:1]], [cut[2], cut[0], cut[1]]):
        ids = [*broken, *stop, 3]
        assert StopStrings(of_bytes, ["stop"]).end(ids) == len(ids) - 1


def test_a_token_may_have_more_text_than_the_stop_string():
    tokenizer = of_words("▁answer", "</answer>.", "▁more")
    assert StopStrings(tokenizer, ["</answer>"]).end([1, 2, 3]) == 2


def test_the_space_at_the_beginning_of_a_completion_counts():
    tokenizer = of_words("▁end", "▁more")
    assert tokenizer.decode([1]) == "end"
    assert StopStrings(tokenizer, [" end"]).end([1, 2]) == 1


def test_a_tokenizer_that_cannot_decode_token_by_token_is_refused():
    with pytest.raises(RunError, match=r"spec\.sampling\.stop: the model's tokenizer cannot turn tokens") as raised:
        StopStrings(SimpleNamespace(is_fast=False, eos_token_id=1), ["x"])
    assert raised.value.code is ExitCode.CONFIGURATION_INVALID
