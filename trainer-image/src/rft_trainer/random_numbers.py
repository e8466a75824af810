"""Random numbers of an evaluation, which neither depend on those of training nor change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rft_trainer.rollout_servers.client import sample_seed


@contextmanager
def own_random_numbers(seed: int, *parts: int | str) -> Iterator[None]:
    """Draw random numbers from a seed that is made of the run's and `parts`; restore torch's generators at the end.

    So a run that is resumed, and makes a validation again, goes on with the same numbers in training.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(sample_seed(seed, *parts))
        yield
