"""Tokens are sampled as torch does it, from the same random numbers."""

import pytest
import torch

from rft_trainer.multinomial import sample_tokens


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 40.0])
def test_the_tokens_are_those_of_multinomial(scale):
    """Whatever the entropy of the distribution, and where tokens have no probability at all."""
    torch.manual_seed(3)
    scores = torch.randn(300, 997) * scale
    scores[:, ::3] = -torch.inf
    probabilities = scores.softmax(-1)
    uniform = torch.empty(300, 997, dtype=torch.float64)
    state = torch.get_rng_state()
    expected = torch.multinomial(probabilities, 1)[:, 0]
    torch.set_rng_state(state)
    drawn = uniform.uniform_().clone()
    assert torch.equal(sample_tokens(probabilities, uniform), expected)
    assert torch.equal(uniform, drawn)
    assert len(set(expected.tolist())) > 10


def test_equal_ratios_and_numbers_next_to_the_bounds():
    """The first of equal ratios wins, as in `argmax`; 0 and the largest number below 1 are possible numbers."""
    uniform = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.0, 0.9], [1 - 2.0**-53, 1 - 2.0**-53, 0.99]], dtype=torch.float64)
    probabilities = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0.3, 0.3, 0.4]])
    expected = (probabilities / uniform.neg().log1p().neg().float()).argmax(-1)
    assert sample_tokens(probabilities, uniform).tolist() == expected.tolist() == [1, 1, 2]
