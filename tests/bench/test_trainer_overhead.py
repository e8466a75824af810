"""The interval that the comparison with TRL prints is that of the median."""

import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "bench/trainer_overhead.py"


@pytest.mark.parametrize(
    ("count", "interval"),
    # Of 14 values, at most 2 are below the median with probability 0.0065, and at most 3 with 0.029.
    [(3, (1, 3)), (6, (1, 6)), (9, (2, 8)), (14, (3, 12)), (20, (6, 15))],
)
def test_the_interval_of_the_median_leaves_out_what_the_sign_test_does(count, interval):
    spec = importlib.util.spec_from_file_location("trainer_overhead", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.median_interval([float(value) for value in range(count, 0, -1)]) == interval
