"""Token trees hold every sequence once, and each token sees its own sequence only."""

import random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rft_trainer.token_tree import TokenTrees, plain_rows, sees_trees, token_trees

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
HIDDEN = 576


def check(trees: TokenTrees, sequences: list[list[int]]) -> None:
    """Every sequence can be read along its columns, and each of its tokens sees exactly those before it."""
    for sequence, row, columns in zip(sequences, trees.rows.tolist(), trees.columns, strict=True):
        assert trees.ids[row, columns].tolist() == list(sequence)
        assert trees.positions[row, columns].tolist() == list(range(len(sequence)))
        assert trees.filled[row, columns].all()
        for depth, column in enumerate(columns.tolist()):
            if trees.visible is not None:
                assert trees.visible[row, column].nonzero().flatten().tolist() == sorted(columns[: depth + 1].tolist())


@pytest.mark.parametrize("seed", range(40))
def test_every_sequence_can_be_read_and_sees_itself_only(seed):
    generator = random.Random(seed)
    starts = [[generator.randrange(4) for _ in range(generator.randrange(1, 30))] for _ in range(3)]
    sequences = [
        generator.choice(starts)[: generator.randrange(1, 30)] + [generator.randrange(4) for _ in range(length)]
        for length in (generator.randrange(12) for _ in range(generator.randrange(1, 20)))
    ]
    for trees in (token_trees(sequences, HIDDEN), token_trees(sequences, 1), plain_rows(sequences)):
        check(trees, sequences)


def test_what_sequences_begin_with_stands_there_once():
    example, first, second = [1, 2, 3, 4, 5], [6, 7], [8]
    sequences = [
        example + prompt + sample for prompt in (first, second) for sample in ([9, 10], [9, 11], [9, 10], [12])
    ]
    trees = token_trees(sequences, HIDDEN)
    # The example, two prompts, and behind each of them 9 with two children, and 4.
    assert trees.ids.shape == (1, 5 + 2 + 1 + 2 * 4)
    check(trees, sequences)
    plain = plain_rows(sequences)
    assert plain.ids.shape == (6, 9)
    assert plain.attention_mask(torch.float32).shape == (6, 9)


def test_sequences_share_a_row_only_where_that_saves_operations():
    # Next to completions this long, the mask would drop more pairs than sharing the prompt saves tokens.
    prompt, long = [1] * 4, 1_000
    completions = [[2] + [3] * long, [4] + [5] * long]
    assert token_trees([prompt + completion for completion in completions], HIDDEN).ids.shape[0] == 2
    assert token_trees([prompt + completion[:24] for completion in completions], HIDDEN).ids.shape[0] == 1
    # Sequences without a common beginning never do. Where none shares a row, there is no mask of pairs of columns.
    apart = token_trees([[1, 2], [2, 2], [3, 2, 4]], HIDDEN)
    assert apart.ids.shape == apart.attention_mask(torch.float32).shape == (3, 3)


def test_models_whose_attention_sees_no_trees():
    assert sees_trees(LlamaForCausalLM(LlamaConfig(**SIZES)))
    assert not sees_trees(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=61))
    gpt2.config._attn_implementation = "flash_attention_2"
    assert not sees_trees(gpt2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_computes_what_it_computes_for_each_sequence_alone(attention):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=attention)).eval()
    sequences = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8, 10, 11], [12, 13], [5], [12, 13, 14]]
    trees = token_trees(sequences, HIDDEN)
    assert trees.ids.shape == (2, 7)
    with torch.no_grad():
        logits = model(
            input_ids=trees.ids, attention_mask=trees.attention_mask(torch.float32), position_ids=trees.positions
        ).logits
        for sequence, row, columns in zip(sequences, trees.rows.tolist(), trees.columns, strict=True):
            alone = model(input_ids=torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits[row, columns], alone, atol=1e-5, rtol=1e-4)
