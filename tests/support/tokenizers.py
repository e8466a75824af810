"""A tokenizer whose tokens are words, so that programs with it count as the stand-in for vLLM does."""

from __future__ import annotations

from pathlib import Path

WORDS = 100


def write_word_tokenizer(folder: Path) -> Path:
    """Writes the tokenizer, and returns its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"word{number}": number for number in range(WORDS)}
    words = Tokenizer(models.WordLevel({**vocabulary, "<unknown>": WORDS}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unknown>").save_pretrained(folder)
    return folder
