"""The manifest's tests: samples that must score as expected before the server is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft_api.reward_function import Expectation, RewardTest
from rft_api.reward_protocol import build_sample

_ROUNDING = 1e-9


def test_samples(tests: Sequence[RewardTest]) -> list[dict[str, Any]]:
    """The samples that the tests describe."""
    return [
        build_sample(
            f"test-{number}",
            [{"role": "user", "content": test.prompt}],
            test.completion,
            test.reference_answer,
            test.metadata,
        )
        for number, test in enumerate(tests, 1)
    ]


def failures(tests: Sequence[RewardTest], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A message for each test whose row is not as expected."""
    messages = []
    for number, (test, row) in enumerate(zip(tests, rows, strict=True), 1):
        score = row["aggregate_reward_score"]
        wanted = f"test {number} (spec.tests[{number - 1}]): expected a reward {_bounds(test.expect)}"
        if score is None:
            messages.append(f"{wanted}, but the sample could not be scored: {row['error']}")
        elif not _within(score, test.expect):
            messages.append(f"{wanted}, got {score:g}")
    return messages


def _within(score: float, expect: Expectation) -> bool:
    above = expect.minimum is None or score >= float(expect.minimum) - _ROUNDING
    below = expect.maximum is None or score <= float(expect.maximum) + _ROUNDING
    return above and below


def _bounds(expect: Expectation) -> str:
    low = None if expect.minimum is None else f"of at least {expect.minimum}"
    high = None if expect.maximum is None else f"of at most {expect.maximum}"
    return " and ".join(bound for bound in (low, high) if bound is not None)
