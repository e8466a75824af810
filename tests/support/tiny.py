"""A tiny language model with a character tokenizer, and a task it can learn: sorting digits."""

from __future__ import annotations

import json
import random
from pathlib import Path

ALPHABET = "0123456789 abcdefghijklmnopqrstuvwxyz:,."
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_model(folder: Path, seed: int = 0, layers: int = 2, hidden: int = 64, tied: bool = True) -> Path:
    """Writes a Llama-style model with random weights (float32) and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|developer|>", "<|unk|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *ALPHABET])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", unk_token="<|unk|>", padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            eos_token_id=vocabulary["<|end|>"],
            pad_token_id=vocabulary["<|pad|>"],
            bos_token_id=None,
            tie_word_embeddings=tied,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=[vocabulary["<|end|>"]], pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def digits_rows(count: int, length: int, seed: int) -> list[dict[str, object]]:
    """Prompts "3142" with the reference answer "1234", all different."""
    generator = random.Random(seed)
    chosen = generator.sample(range(10**length), count)
    texts = [str(number).zfill(length) for number in chosen]
    return [
        {"messages": [{"role": "user", "content": text}], "reference_answer": "".join(sorted(text))} for text in texts
    ]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """Writes rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
