"""Parts of a step are bounded in tokens, keep what belongs together, and lose nothing."""

import random

import pytest
import torch

from rft_trainer.micro_batches import select, sequences_of, split_by_tokens
from rft_trainer.token_tree import token_trees


@pytest.mark.parametrize("seed", range(30))
def test_every_sequence_is_in_one_part_and_parts_keep_to_the_bound(seed):
    generator = random.Random(seed)
    prompts = [[generator.randrange(3) for _ in range(generator.randrange(1, 12))] for _ in range(3)]
    sequences = [
        generator.choice(prompts) + [generator.randrange(3) for _ in range(generator.randrange(10))] for _ in range(25)
    ]
    bound = generator.randrange(5, 60)
    least = generator.randrange(1, 26)
    parts = split_by_tokens(sequences, bound, least)
    assert sorted(place for part in parts for place in part) == list(range(25))
    assert len(parts) >= least
    assert all(parts)
    for part in parts:
        distinct = {tuple(sequences[place][: n + 1]) for place in part for n in range(len(sequences[place]))}
        assert len(distinct) <= bound or len({tuple(sequences[place]) for place in part}) == 1


def test_completions_of_a_prompt_stay_together():
    prompts = [[1] * 50, [2] * 50]
    sequences = [prompts[n % 2] + [3, n] for n in range(8)]
    parts = split_by_tokens(sequences, 60)
    assert parts == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert token_trees([sequences[place] for place in parts[0]], 576).ids.shape == (1, 50 + 1 + 4)


def test_more_parts_than_sequences_cannot_be_made():
    with pytest.raises(ValueError, match="2 sequences cannot make 3 parts"):
        split_by_tokens([[1], [2]], 10, 3)


def test_rows_are_cut_to_the_longest_among_them():
    inputs = {
        "prompt_ids": torch.tensor([[0, 0, 5], [6, 7, 8], [0, 9, 4]]),
        "prompt_mask": torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]]),
        "completion_ids": torch.tensor([[1, 0, 0, 0], [1, 2, 3, 4], [1, 2, 0, 0]]),
        "completion_mask": torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
        "advantages": torch.tensor([0.1, 0.2, 0.3]),
        "ref_per_token_logps": torch.arange(12.0).view(3, 4),
        "importance_sampling_ratio": torch.ones(3, 1),
        "num_items_in_batch": torch.tensor(7),
        "pixel_values": None,
    }
    part = select(inputs, [2, 0])
    assert part["prompt_ids"].tolist() == [[9, 4], [0, 5]]
    assert part["completion_ids"].tolist() == [[1, 2], [1, 0]]
    assert part["ref_per_token_logps"].tolist() == [[8, 9], [0, 1]]
    assert part["importance_sampling_ratio"].shape == (2, 1)
    assert part["advantages"].tolist() == pytest.approx([0.3, 0.1])
    assert part["num_items_in_batch"] == 7
    assert part["pixel_values"] is None
    assert sequences_of(part) == [[9, 4, 1, 2], [5, 1]]
