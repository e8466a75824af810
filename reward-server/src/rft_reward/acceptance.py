"""The manifest's tests: samples that must score as expected before the server is ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft_api.constant_reward import constant_reward
from rft_api.groups import group_id
from rft_api.readiness import NotReady, NotReadyReason
from rft_api.reward_function import Expectation, RewardTest
from rft_api.reward_protocol import build_sample

_ROUNDING = 1e-9


def test_samples(tests: Sequence[RewardTest], by_group: bool) -> list[dict[str, Any]]:
    """Return the samples that the tests describe. With `by_group`, tests with the same prompt and answer are a
    group."""
    samples = []
    for number, test in enumerate(tests, 1):
        prompt = [{"role": "user", "content": test.prompt}]
        group = group_id(prompt, test.reference_answer) if by_group else None
        samples.append(
            build_sample(f"test-{number}", prompt, test.completion, test.reference_answer, test.metadata, group)
        )
    return samples


def same_reward(tests: Sequence[RewardTest], rows: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> str | None:
    """Return what to say if the tests, whose completions differ, all have the same reward; None otherwise.

    Args:
        tests: the tests.
        rows: their rows.
        sources: the Python code of the function.
    """
    rewards = [row["aggregate_reward_score"] for row in rows]
    text = constant_reward(test_samples(tests, by_group=False), rewards, sources)
    return None if text is None else f"spec.tests: {text}"


def failures(
    tests: Sequence[RewardTest], rows: Sequence[Mapping[str, Any]], sources: Sequence[str] = ()
) -> list[NotReady]:
    """Return the tests whose rows are not as expected, and why.

    If the reward is the same for all tests, the first failure says so, with the likeliest causes in `sources`, the
    Python code of the function.
    """
    failed = []
    for index, (test, row) in enumerate(zip(tests, rows, strict=True)):
        outcome = _outcome(test.expect, row)
        if outcome is not None:
            message = f"test {index + 1} (spec.tests[{index}]): expected a reward {_bounds(test.expect)}{outcome}"
            failed.append(NotReady(reason=NotReadyReason.TEST_FAILED, message=message, test=index))
    same = same_reward(tests, rows, sources) if failed else None
    if same is not None:
        first = failed[0]
        failed[0] = first.model_copy(update={"message": f"{first.message}; {same}"})
    return failed


def _outcome(expect: Expectation, row: Mapping[str, Any]) -> str | None:
    """Return what came in the place of the expected reward; None when it is as expected."""
    score = row["aggregate_reward_score"]
    if score is None:
        return f", but the sample could not be scored: {row['error']}"
    return None if _within(score, expect) else f", got {score:g}"


def _within(score: float, expect: Expectation) -> bool:
    above = expect.minimum is None or score >= float(expect.minimum) - _ROUNDING
    below = expect.maximum is None or score <= float(expect.maximum) + _ROUNDING
    return above and below


def _bounds(expect: Expectation) -> str:
    low = None if expect.minimum is None else f"of at least {expect.minimum}"
    high = None if expect.maximum is None else f"of at most {expect.maximum}"
    return " and ".join(bound for bound in (low, high) if bound is not None)
