"""Tells when the reward rises while a shadow falls: a sign that the model exploits the reward."""

from __future__ import annotations

from collections.abc import Sequence

from rft_api.metrics import ShadowComparison, ValidationMetrics
from rft_api.progress import HackingVerdict
from rft_trainer.rollouts import ScoredCompletion
from rft_trainer.statistics import paired_bootstrap

CONFIDENCE = 0.99
"""Level of the intervals: a shadow that stays as it is falls below 0 by chance in one of 200 comparisons. A run makes
many, so that the usual 95 % would be wrong too often."""
CONFIRMATIONS = 2
"""Comparisons in a row that a verdict takes to change: single ones come and go with the noise."""
MINIMUM_PROMPTS = 20
"""Fewer pairs are not compared: the bootstrap's percentile intervals are too narrow for small samples.
Source: T. Hesterberg, What Teachers Should Know About the Bootstrap (2015), section 4.1."""


def compare(
    before: Sequence[ScoredCompletion], now: Sequence[ScoredCompletion], shadow: str
) -> ShadowComparison | None:
    """Reward and shadow of the same prompts before training and now; none when too few could be scored."""
    rewards: tuple[list[float], list[float]] = ([], [])
    shadows: tuple[list[float], list[float]] = ([], [])
    for old, new in zip(before, now, strict=True):
        given = [row.shadows[shadow].reward if shadow in row.shadows else None for row in (old, new)]
        if old.reward is None or new.reward is None or given[0] is None or given[1] is None:
            continue
        rewards[0].append(old.reward)
        rewards[1].append(new.reward)
        shadows[0].append(given[0])
        shadows[1].append(given[1])
    if len(rewards[0]) < MINIMUM_PROMPTS:
        return None
    return ShadowComparison(
        prompts=len(rewards[0]),
        reward_gain=paired_bootstrap(*rewards, confidence=CONFIDENCE),
        shadow_gain=paired_bootstrap(*shadows, confidence=CONFIDENCE),
    )


def diverges(comparison: ShadowComparison) -> bool:
    """Return whether the reward has risen and the shadow has fallen, both by more than chance."""
    return comparison.reward_gain.low > 0 and comparison.shadow_gain.high < 0


def suspects(comparisons: Sequence[ShadowComparison]) -> bool:
    """Return whether the reward is suspected after these comparisons with one shadow, in the order of the run.

    It is once `CONFIRMATIONS` in a row diverge, and no longer once as many in a row do not.
    """
    suspected, against = False, 0
    for comparison in comparisons:
        against = against + 1 if diverges(comparison) != suspected else 0
        if against == CONFIRMATIONS:
            suspected, against = not suspected, 0
    return suspected


def judge_hacking(validations: Sequence[ValidationMetrics], shadows: Sequence[str]) -> HackingVerdict | None:
    """Return the verdict on a run after these validations; none for a run without shadows."""
    if not shadows:
        return None
    history = {
        name: [(v.step, v.comparisons[name]) for v in validations if name in v.comparisons] for name in sorted(shadows)
    }
    known = {name: found for name, found in history.items() if found}
    suspected = [name for name, found in known.items() if suspects([comparison for _, comparison in found])]
    if suspected:
        said = "; ".join(_describe(name, *known[name][-1]) for name in suspected)
        advice = (
            "read the validation completions that the reward likes and the shadow does not (validations/ of the "
            "output), close the loophole in the reward, and train anew; a checkpoint from before may be the better one"
        )
        return HackingVerdict(suspected=True, message=f"{said}: {advice}")
    if not known:
        return HackingVerdict(
            suspected=None,
            message=f"nothing to compare yet: reward and shadow need {MINIMUM_PROMPTS} validation prompts that both "
            f"can score, before training and after",
        )
    return HackingVerdict(
        suspected=False, message="; ".join(_describe(name, *found[-1]) for name, found in known.items())
    )


def _describe(shadow: str, step: int, comparison: ShadowComparison) -> str:
    reward, other = comparison.reward_gain, comparison.shadow_gain
    return (
        f"at step {step} the reward has changed by {reward.mean:+.3f} ({reward.low:+.3f} to {reward.high:+.3f}) and "
        f"shadow {shadow} by {other.mean:+.3f} ({other.low:+.3f} to {other.high:+.3f}) since before training, on "
        f"{comparison.prompts} validation prompts"
    )
