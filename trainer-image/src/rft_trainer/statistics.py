"""Means, and the bootstrap interval of a gain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rft_api.metrics import Gain

RESAMPLES = 10_000


def mean(values: Sequence[float]) -> float | None:
    """Return the arithmetic mean; None when there are no values."""
    return math.fsum(values) / len(values) if values else None


def prompt_means(values: Sequence[float | None], samples: int) -> list[float | None]:
    """Return the mean of each prompt, which has `samples` values in a row; None for a prompt that has none.

    Completions of one prompt depend on each other, so intervals resample the means of prompts: the prompt is the
    cluster. Values that are None, those of completions that could not be scored, do not count.
    """
    groups = (values[start : start + samples] for start in range(0, len(values), samples))
    return [mean([value for value in group if value is not None]) for group in groups]


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> Gain:
    """Return the mean of `after - before` and its percentile bootstrap interval, resampling the pairs.

    With `weights` the values are sums over so many units, such as tokens, and the mean is that of a unit.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Raises:
        ValueError: when there are no pairs, or the lengths differ.
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if differences.ndim != 1 or differences.size == 0:
        raise ValueError("a paired bootstrap needs pairs")
    sizes = np.ones(differences.size) if weights is None else np.asarray(weights, dtype=np.float64)
    generator = np.random.default_rng(seed)
    # Multinomial counts say how often each pair was drawn; so no array of RESAMPLES x n indices is needed.
    counts = generator.multinomial(differences.size, np.full(differences.size, 1 / differences.size), size=RESAMPLES)
    means = (counts @ differences) / (counts @ sizes)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    mean = float(differences.mean() if weights is None else differences.sum() / sizes.sum())
    return Gain(mean=mean, low=float(low), high=float(high), confidence=confidence)
