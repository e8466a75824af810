"""Samples the tokens of `torch.multinomial` on CPUs from its random numbers, with few logarithms."""

import torch

ROUNDING = 2.0**-20
"""More than the relative rounding errors of a float32 bound and ratio together, of which each has two of 2^-24."""


def sample_tokens(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the tokens [n] that `torch.multinomial` samples from probabilities [n, V], with uniform numbers [n, V].

    These are where p / e is largest, for exponential numbers e = -log(1 - u). The logarithms of them all would take
    longer than everything else here. As e is never less than u, p / u is a bound of p / e. So only those tokens can be
    sampled whose bound is as large as the ratio of the token with the largest bound. These are few.

    Args:
        probabilities: float32.
        uniform: float64, at least 0 and less than 1.
    """

    def ratios(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        # These are the numbers of `exponential_`.
        return probabilities[rows, tokens] / uniform[rows, tokens].neg_().log1p_().neg_().float()

    bounds = probabilities / uniform.float()
    all_rows = torch.arange(len(bounds))
    least = ratios(all_rows, bounds.argmax(-1)) * (1 - ROUNDING)
    rows, tokens = (bounds >= least[:, None]).nonzero(as_tuple=True)
    candidates = ratios(rows, tokens)
    largest = candidates.new_zeros(len(bounds)).scatter_reduce(0, rows, candidates, "amax")
    is_largest = candidates == largest[rows]
    # Of equal ratios, `argmax` takes the first.
    result = torch.full((len(bounds),), bounds.shape[1])
    return result.scatter_reduce(0, rows[is_largest], tokens[is_largest], "amin")
